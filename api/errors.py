"""What the API answers instead of doing what it was asked.

ApiError                      has a status and a code, and becomes the envelope
├── Refused                   the caller must change something
│   ├── BadRequest            400   the request is not what this route takes
│   │   └── AllRejected       400   each event of the batch was refused; lists them
│   ├── Unauthorized          401   no key, or one that is not valid
│   ├── Forbidden             403   the key is valid and may not do this
│   ├── NotFound              404   no such route
│   ├── MethodNotAllowed      405   the route exists for other methods
│   ├── NotAcceptable         406   the caller takes no JSON
│   ├── RequestTimeout        408   the body did not arrive in time
│   ├── TooLarge              413   a limit of size is passed; the message names it
│   └── UnsupportedMediaType  415   a body of a kind, or packed in a way, that is not read here
├── RetryLater                503   the same request again, later, is right and safe
│   ├── NotReady                    the keys are not read yet
│   ├── Busy                        too much is in flight
│   ├── LogUnavailable              Kafka did not acknowledge everything in time
│   └── UsageUnavailable            ClickHouse does not answer
└── Unforeseen                500   a fault of ours

KeysError                     a command about API keys cannot be done; the message says what to do
"""

from collections.abc import Mapping
from typing import Any, ClassVar

__all__ = [
    "AllRejected",
    "ApiError",
    "BadRequest",
    "Busy",
    "Forbidden",
    "KeysError",
    "LogUnavailable",
    "MethodNotAllowed",
    "NotAcceptable",
    "NotFound",
    "NotReady",
    "Refused",
    "RequestTimeout",
    "RetryLater",
    "TooLarge",
    "Unauthorized",
    "Unforeseen",
    "UnsupportedMediaType",
    "UsageUnavailable",
]

_RETRY_AFTER_S = 1


class ApiError(Exception):
    """The base of all answers that are not the one asked for."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "INTERNAL_ERROR"

    def __init__(
        self,
        message: str,
        *,
        details: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        beside: Mapping[str, Any] | None = None,
    ) -> None:
        """`details` says what is wrong by field; `beside` stands beside the envelope's own members."""
        super().__init__(message)
        self.message = message
        self.details = details
        self.headers = dict(headers or {})
        self.beside = dict(beside or {})


class Refused(ApiError):
    """Sent again as it is, it is refused again."""


class BadRequest(Refused):
    """The request is not what this route takes."""

    status = 400
    code = "BAD_REQUEST"


class AllRejected(BadRequest):
    """Each event of the batch was refused; they are listed as in a 202."""

    code = "ALL_REJECTED"


class Unauthorized(Refused):
    """No key, or one that is not valid. Which of both is not told."""

    status = 401
    code = "UNAUTHORIZED"


class Forbidden(Refused):
    """The key is valid, and its scopes do not cover this route."""

    status = 403
    code = "FORBIDDEN"


class NotFound(Refused):
    """No such route."""

    status = 404
    code = "NOT_FOUND"


class MethodNotAllowed(Refused):
    """The route exists for other methods."""

    status = 405
    code = "METHOD_NOT_ALLOWED"


class NotAcceptable(Refused):
    """The caller's Accept header leaves out JSON."""

    status = 406
    code = "NOT_ACCEPTABLE"


class RequestTimeout(Refused):
    """The body did not arrive in time."""

    status = 408
    code = "REQUEST_TIMEOUT"


class TooLarge(Refused):
    """A limit of size is passed; the message names it."""

    status = 413
    code = "TOO_LARGE"


class UnsupportedMediaType(Refused):
    """A body of a kind, or packed in a way, that is not read here."""

    status = 415
    code = "UNSUPPORTED_MEDIA_TYPE"


class RetryLater(ApiError):
    """The same request again, later, is right and safe."""

    status = 503
    code = "UNAVAILABLE"

    def __init__(self, message: str) -> None:
        super().__init__(message, headers={"Retry-After": str(_RETRY_AFTER_S)})


class NotReady(RetryLater):
    """The keys are not read yet."""

    code = "NOT_READY"


class Busy(RetryLater):
    """Too much is in flight; taking more would only make everyone wait longer."""

    code = "BUSY"


class LogUnavailable(RetryLater):
    """Kafka did not acknowledge everything in time. Some of the batch may be on the log: the ids make a retry safe."""

    code = "LOG_UNAVAILABLE"


class UsageUnavailable(RetryLater):
    """ClickHouse does not answer."""

    code = "USAGE_UNAVAILABLE"


class Unforeseen(ApiError):
    """A fault of ours; the log has it under the answer's correlation id."""


class KeysError(Exception):
    """A command about API keys cannot be done; the message says what to do."""

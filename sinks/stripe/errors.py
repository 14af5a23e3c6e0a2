"""What can go wrong between the sink and Stripe, by what the sink does about it.

StripeSinkError
├── Refused           Stripe will not have this event: an outcome; not sent again until its total changes
├── TryAgain          not taken, this time: the same event again later
│   └── Unknown       taken or not: the same event, with the same identifier, until the answer is definite
└── StopSink          no event can be told: the process ends
    ├── Misconfigured a person must change a setting first (key, permission, address)
    └── Replaced      another instance of the sink has taken over
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import aiohttp
import stripe
from stripe import _error, oauth_error

__all__ = [
    "DUPLICATE",
    "FOREIGN_ERRORS",
    "Misconfigured",
    "Refused",
    "Replaced",
    "StopSink",
    "StripeSinkError",
    "TryAgain",
    "Unknown",
    "from_foreign_error",
    "is_duplicate",
    "stripe_exceptions",
]

DUPLICATE: Final = "duplicate_meter_event"


class StripeSinkError(Exception):
    """Raised by everything in this room on purpose."""


class Refused(StripeSinkError):
    """Raised when Stripe's answer says that this event, as it is, is never taken. `code` is Stripe's."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class TryAgain(StripeSinkError):
    """Raised when Stripe's answer says that it took nothing, for a reason that passes."""


class Unknown(TryAgain):
    """Raised when there is no answer, or one that does not say whether the event was taken."""


class StopSink(StripeSinkError):
    """Raised when going on makes no sense for this process."""


class Misconfigured(StopSink):
    """Raised when Stripe refuses the key, or what answers is not what the settings say. Says what to change."""


class Replaced(StopSink):
    """Raised when the broker refuses our transactional id: a younger instance has it."""


_HTTP_NOT_FOUND = 404
_HTTP_TAKEN_NOTHING = (409, 429)  # v2 answers 409 while another event of the same customer and meter is in the making

# Every exception class of Stripe's library, and what the sink makes of it. Most of the typed ones belong to other parts of
# Stripe's API; they are 4xx answers, hence refusals, should they ever come.
FOREIGN_ERRORS: Final[dict[type[Exception], type[StripeSinkError]]] = {
    stripe.StripeError: Unknown,
    stripe.APIError: Unknown,  # 5xx, and answers that are not Stripe's (a proxy's page)
    stripe.APIConnectionError: Unknown,
    stripe.RateLimitError: TryAgain,
    stripe.InvalidRequestError: Refused,
    stripe.IdempotencyError: Refused,  # the key was used for another request: ours is pinned by its intent, so never ours
    stripe.AuthenticationError: Misconfigured,
    stripe.PermissionError: Misconfigured,
    stripe.CardError: Misconfigured,  # 402: the account itself may not do this
    stripe.SignatureVerificationError: Misconfigured,
    _error.StripeErrorWithParamCode: Unknown,  # a base class, never raised itself
    _error.AlreadyCanceledError: Refused,  # not exported, raised all the same; so are the others
    _error.BlockedByStripeError: Refused,
    _error.CannotProceedError: Refused,
    _error.CapabilityNotEnabledError: Misconfigured,
    _error.ControlledByAlternateResourceError: Refused,
    _error.FeatureNotEnabledError: Misconfigured,
    _error.FinancialAccountNotOpenError: Refused,
    _error.FxQuoteNeedsRefreshError: Refused,
    _error.InsufficientFundsError: Refused,
    _error.InvalidPaymentMethodError: Refused,
    _error.InvalidPayoutMethodError: Refused,
    _error.InvalidVaultedCredentialError: Refused,
    _error.NotCancelableError: Refused,
    _error.QuotaExceededError: TryAgain,
    _error.RecipientNotNotifiableError: Refused,
    _error.TemporarySessionExpiredError: TryAgain,
    _error.VerificationAttemptFailedError: Refused,
    _error.VerificationExpiredError: Refused,
    _error.VerificationNotInitiatedError: Refused,
    oauth_error.OAuthError: Misconfigured,
    oauth_error.InvalidClientError: Misconfigured,
    oauth_error.InvalidGrantError: Misconfigured,
    oauth_error.InvalidRequestError: Misconfigured,
    oauth_error.InvalidScopeError: Misconfigured,
    oauth_error.UnsupportedGrantTypeError: Misconfigured,
    oauth_error.UnsupportedResponseTypeError: Misconfigured,
    # Stripe's client maps what breaks while it asks, and lets through what breaks while it reads the answer.
    aiohttp.ClientError: Unknown,
    TimeoutError: Unknown,
    OSError: Unknown,
}


def from_foreign_error(exc: Exception) -> StripeSinkError:
    """What the sink makes of an exception of the table's, by its class and, where that says too little, by its status."""
    kind = next(FOREIGN_ERRORS[base] for base in type(exc).__mro__ if base in FOREIGN_ERRORS)
    status = getattr(exc, "http_status", None)
    if status in _HTTP_TAKEN_NOTHING:
        return TryAgain(_words(exc))
    if status == _HTTP_NOT_FOUND:
        # Stripe has this path: whatever answers there is something else, and its 404 is no verdict on the event.
        return Misconfigured(f"the address has no such path ({_words(exc)}); check the Stripe URL of the settings")
    if kind is Refused:
        return Refused(_code(exc) or type(exc).__name__, _words(exc))
    if kind is Misconfigured:
        return Misconfigured(f"Stripe refuses the key or what it may do ({_words(exc)}); check METERLOG_STRIPE_API_KEY")
    return kind(_words(exc))


def is_duplicate(exc: Exception, identifier: str) -> bool:
    """Whether Stripe refused the event because it has one of this identifier. v1 says it with words alone."""
    if not isinstance(exc, stripe.InvalidRequestError):
        return False
    code = _code(exc)
    return code == DUPLICATE or (code is None and f"already exists with identifier {identifier}" in _words(exc))


def stripe_exceptions() -> Iterator[type[Exception]]:
    """Every exception class that Stripe's library defines."""
    stack: list[type[Exception]] = [stripe.StripeError]
    while stack:
        kind = stack.pop()
        yield kind
        stack += kind.__subclasses__()


def _code(exc: Exception) -> str | None:
    """Stripe's code, which the library leaves only in the body for some of its classes."""
    code = getattr(exc, "code", None)
    if isinstance(code, str):
        return code
    body: Any = getattr(exc, "json_body", None)
    error = body.get("error") if isinstance(body, dict) else None
    found = error.get("code") if isinstance(error, dict) else None
    return found if isinstance(found, str) else None


def _words(exc: Exception) -> str:
    """What the error says, on one line and not longer than a log can take."""
    text = getattr(exc, "user_message", None) or str(exc) or type(exc).__name__
    return " ".join(str(text).split())[:300]

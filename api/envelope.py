"""The envelope of errors: `result`, `error` and `correlationId`, the same for every status."""

import re
from collections.abc import Mapping
from uuid import uuid4

import msgspec
from starlette.responses import Response

from api.errors import ApiError
from schemas.timestamps import timestamp

__all__ = ["CORRELATION_HEADER", "correlation_id", "error_response", "json_response"]

CORRELATION_HEADER = "x-usage-correlation-id"
_CORRELATION = re.compile(r"[\x21-\x7e]{1,128}", re.ASCII)
_JSON = "application/json"


def correlation_id(headers: Mapping[str, str]) -> str:
    """The caller's own id for tracing where it sent a usable one, else a new one."""
    given = headers.get(CORRELATION_HEADER, "")
    return given if _CORRELATION.fullmatch(given) else f"corr_{uuid4().hex}"


def json_response(status: int, body: object, correlation: str) -> Response:
    """`body` as JSON, the correlation id in its header."""
    headers = {CORRELATION_HEADER: correlation, "Cache-Control": "no-store"}
    return Response(msgspec.json.encode(body), status, headers, _JSON)


def error_response(error: ApiError, correlation: str, now_ms: int) -> Response:
    """The error in its envelope."""
    told: dict[str, object] = {"code": error.code, "message": error.message}
    if error.details is not None:
        told["details"] = error.details
    body = {
        "result": {"status": "ERROR", "code": error.code, "message": error.message, "timestamp": timestamp(now_ms)},
        "error": told,
        "correlationId": correlation,
        **error.beside,
    }
    response = json_response(error.status, body, correlation)
    response.headers.update(error.headers)
    return response

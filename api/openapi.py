"""GET /v1/openapi.json: what the routes take and answer.

Written by hand: bodies are read past FastAPI's own models, which would cost more an event than everything else, and
what it generates would not know them. The tests send each example to the server and compare the shapes.
"""

from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from api.envelope import correlation_id, json_response
from api.errors import (
    AllRejected,
    ApiError,
    BadRequest,
    Busy,
    Forbidden,
    LogUnavailable,
    MethodNotAllowed,
    NotAcceptable,
    NotFound,
    NotReady,
    RequestTimeout,
    TooLarge,
    Unauthorized,
    Unforeseen,
    UnsupportedMediaType,
    UsageUnavailable,
)
from api.items import AVRO, CLOUD_EVENT, CLOUD_EVENTS, EVENTS_MAX, JSON
from api.openapi_schemas import SCHEMAS, ref

__all__ = ["DOCUMENT", "get_openapi"]

_VERSION: Final = "1"
_EXAMPLE_TIME: Final = "2026-11-21T13:20:00.123456Z"
_NATIVE_EXAMPLE: Final = {
    "event_id": "evt-0001",
    "occurred_at": _EXAMPLE_TIME,
    "customer_id": "acme",
    "event_type": "llm.call",
    "feature": "chat",
    "model": "gpt-5-mini",
    "input_tokens": 512,
    "output_tokens": 256,
}
_METER_EXAMPLE: Final = {
    "event_id": "evt-0002",
    "occurred_at": _EXAMPLE_TIME,
    "customer_id": "acme",
    "meter": "audio_seconds",
    "quantity": "12.5",
}
_CLOUD_EXAMPLE: Final = {
    "specversion": "1.0",
    "id": "0001",
    "source": "/billing/gateway-1",
    "type": "llm.call",
    "time": _EXAMPLE_TIME,
    "subject": "acme",
    "data": {"model": "gpt-5-mini", "input_tokens": 512, "output_tokens": 256},
}
_EXPLAINED: Final[dict[type[ApiError], str]] = {
    BadRequest: "The request is not what this route takes.",
    AllRejected: "The request is not what this route takes, or each of its events was refused.",
    Unauthorized: "No API key, or one that is not valid.",
    Forbidden: "The key's scopes do not cover this route.",
    NotFound: "No such route.",
    MethodNotAllowed: "The route exists for other methods.",
    NotAcceptable: "The Accept header leaves out application/json.",
    RequestTimeout: "The body did not arrive in time.",
    TooLarge: f"More than 10 MiB, packed or unpacked, or more than {EVENTS_MAX} events.",
    UnsupportedMediaType: "A Content-Type or Content-Encoding that is not read here.",
    Unforeseen: "A fault of ours; the log has it under the correlationId.",
}
_EVENTS_LATER: Final = (NotReady, Busy, LogUnavailable)
_USAGE_LATER: Final = (NotReady, UsageUnavailable)


async def get_openapi(request: Request) -> Response:
    """The document."""
    return json_response(200, DOCUMENT, correlation_id(request.headers))


def _error(kind: type[ApiError], schema: str = "Error") -> dict[str, Any]:
    return {"description": _EXPLAINED[kind], "content": {JSON: {"schema": ref(schema)}}}


def _later(kinds: tuple[type[ApiError], ...]) -> dict[str, Any]:
    codes = ", ".join(kind.code for kind in kinds)
    return {
        "description": f"Nothing is wrong with the request: send it again, whole. Codes: {codes}.",
        "headers": {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}},
        "content": {JSON: {"schema": ref("Error")}},
    }


def _errors(*kinds: type[ApiError]) -> dict[str, Any]:
    return {str(kind.status): _error(kind) for kind in kinds}


_KEYED: Final = (Unauthorized, Forbidden, NotAcceptable, Unforeseen)
_SECURITY: Final[list[dict[str, list[str]]]] = [{"bearer": []}, {"header": []}]

_POST_EVENTS: Final[dict[str, Any]] = {
    "operationId": "sendEvents",
    "summary": "Send usage events",
    "description": "Needs the scope `ingest`. A 202 promises that every event but the rejected ones is on the log, "
    "acknowledged by all in-sync replicas. One bad event never refuses the others. When every event is refused the answer "
    "is 400, with the same list. A batch may be sent again at any time: event ids make that safe.\n\n"
    "CloudEvents in binary mode are taken too: `ce-` headers, the data as the body, Content-Type application/json. "
    f"{AVRO} is an Avro object container file of UsageEvent records, unpacked inside, its schema one that meterlog "
    "published; or a single record in single-object encoding. `Content-Encoding: gzip` is read.",
    "security": _SECURITY,
    "requestBody": {
        "required": True,
        "content": {
            JSON: {
                "schema": {"anyOf": [ref("NativeBatch"), ref("NativeEvents"), ref("NativeEvent")]},
                "examples": {
                    "batch": {"value": {"events": [_NATIVE_EXAMPLE, _METER_EXAMPLE]}},
                    "array": {"value": [_METER_EXAMPLE]},
                    "single": {"value": _NATIVE_EXAMPLE},
                },
            },
            CLOUD_EVENT: {"schema": ref("CloudEvent"), "examples": {"single": {"value": _CLOUD_EXAMPLE}}},
            CLOUD_EVENTS: {"schema": ref("CloudEvents"), "examples": {"batch": {"value": [_CLOUD_EXAMPLE]}}},
            AVRO: {"schema": {"type": "string", "format": "binary"}},
        },
    },
    "responses": {
        "202": {
            "description": "On the log, but for the rejected ones.",
            "content": {
                JSON: {
                    "schema": ref("Accepted"),
                    "examples": {
                        "all": {"value": {"accepted": 2, "rejected": []}},
                        "some": {
                            "value": {
                                "accepted": 1,
                                "rejected": [
                                    {
                                        "index": 1,
                                        "event_id": "evt-0002",
                                        "reason": "invalid_field",
                                        "message": "'-1' is negative; send a quantity of 0 or more",
                                        "field": "quantity",
                                    }
                                ],
                            }
                        },
                    },
                }
            },
        },
        "400": _error(AllRejected, "AllRejected"),
        **_errors(*_KEYED, RequestTimeout, TooLarge, UnsupportedMediaType),
        "503": _later(_EVENTS_LATER),
    },
}


def _query(name: str, about: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "description": about, "schema": schema}


_MOMENT: Final = {"type": "string", "format": "date-time"}
_GET_USAGE: Final[dict[str, Any]] = {
    "operationId": "getUsage",
    "summary": "What a customer used",
    "description": "Needs the scope `read`. A customer that is unknown, or another organisation's, looks like one that "
    "used nothing.",
    "security": _SECURITY,
    "parameters": [
        {
            "name": "customer_id",
            "in": "path",
            "required": True,
            "description": "May hold slashes, as they are or as %2F.",
            "schema": {"type": "string", "minLength": 1, "maxLength": 256},
        },
        _query("from", "A whole hour, included. Default: the first of the month that to ends.", _MOMENT),
        _query("to", "A whole hour, excluded. Default: the end of the current month.", _MOMENT),
        _query("meter", "This meter only.", {"type": "string", "maxLength": 128}),
    ],
    "responses": {
        "200": {
            "description": "The usage, by meter.",
            "content": {
                JSON: {
                    "schema": ref("Usage"),
                    "examples": {
                        "month": {
                            "value": {
                                "customer_id": "acme",
                                "from": "2026-11-01T00:00:00.000Z",
                                "to": "2026-12-01T00:00:00.000Z",
                                "as_of": "2026-11-21T13:20:01.500Z",
                                "usage": [{"meter": "audio_seconds", "quantity": "12.5", "event_count": 1}],
                            }
                        }
                    },
                }
            },
        },
        **_errors(BadRequest, *_KEYED),
        "503": _later(_USAGE_LATER),
    },
}
_HEALTH_CONTENT: Final = {JSON: {"schema": ref("Health")}}
_GET_HEALTH: Final[dict[str, Any]] = {
    "operationId": "getHealth",
    "summary": "Whether what is accepted is also counted",
    "description": "Measured every second in the background. Red when Kafka does not answer or acknowledge, when the API "
    "keys are not read yet, or when the fold is too far behind or stands. Yellow when ClickHouse does not answer or its sink "
    "is too far behind: events are taken and counted, and figures are late.",
    "security": [],
    "responses": {
        "200": {"description": "Green or yellow.", "content": _HEALTH_CONTENT},
        "503": {"description": "Red.", "content": _HEALTH_CONTENT},
        **_errors(NotAcceptable, Unforeseen),
    },
}
_GET_OPENAPI: Final[dict[str, Any]] = {
    "operationId": "getOpenApi",
    "summary": "This document",
    "security": [],
    "responses": {
        "200": {"description": "OpenAPI 3.1.", "content": {JSON: {"schema": {"type": "object"}}}},
        **_errors(NotAcceptable, Unforeseen),
    },
}

DOCUMENT: Final[dict[str, Any]] = {
    "openapi": "3.1.0",
    "info": {
        "title": "meterlog",
        "version": _VERSION,
        "description": "Usage events in, counted once. Every error has the envelope of the schema Error; an unknown route "
        "answers 404 and a known one asked with another method 405, in it too.",
        "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
    },
    "paths": {
        "/v1/events": {"post": _POST_EVENTS},
        "/v1/customers/{customer_id}/usage": {"get": _GET_USAGE},
        "/v1/health": {"get": _GET_HEALTH},
        "/v1/openapi.json": {"get": _GET_OPENAPI},
    },
    "components": {
        "schemas": SCHEMAS,
        "securitySchemes": {
            "bearer": {"type": "http", "scheme": "bearer", "description": "A key of `meterlog keys create`: mk_…"},
            "header": {"type": "apiKey", "in": "header", "name": "x-api-key"},
        },
    },
}

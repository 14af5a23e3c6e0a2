"""The bodies that requests and answers have, as JSON Schema. The tests hold them to the structs that are read and written."""

from typing import Any, Final

from api.items import EVENTS_MAX
from billing.facts import Reason
from billing.metering.rules import (
    ID_BYTES_MAX,
    LABEL_BYTES_MAX,
    PROPERTIES_MAX,
    PROPERTY_BYTES_MAX,
    TAGS_MAX,
    TOKENS_MAX,
)
from billing.records import Status

__all__ = ["SCHEMAS", "ref"]

Schema = dict[str, Any]

_QUANTITY_PATTERN: Final = r"^[0-9]{1,18}(\.[0-9]{1,9})?$"
# What this door can refuse an event for; the fold's further reasons are listed in ClickHouse.
_DOOR_REASONS: Final = (Reason.INVALID_FIELD, Reason.TOO_OLD, Reason.IN_FUTURE, Reason.UNREADABLE)


def ref(name: str) -> Schema:
    """A reference to the schema of that name."""
    return {"$ref": f"#/components/schemas/{name}"}


def _object(required: tuple[str, ...], properties: Schema, *, closed: bool = True, about: str = "") -> Schema:
    schema: Schema = {"type": "object", "required": list(required), "properties": properties}
    if closed:
        schema["additionalProperties"] = False
    if about:
        schema["description"] = about
    return schema


def _text(about: str, bytes_max: int = LABEL_BYTES_MAX) -> Schema:
    about = f"{about} At most {bytes_max} bytes of UTF-8, no control characters."
    return {"type": "string", "minLength": 1, "maxLength": bytes_max, "description": about}


def _optional(schema: Schema) -> Schema:
    return {**schema, "type": [schema["type"], "null"]}


def _tokens(about: str) -> Schema:
    return {"type": ["integer", "null"], "minimum": 0, "maximum": TOKENS_MAX, "description": about}


def _moment(about: str) -> Schema:
    return {"type": "string", "format": "date-time", "description": about}


_SHARED: Final[Schema] = {
    "quantity": {
        "description": "How much of the meter: 0 or more, at most 18 whole digits and 9 decimals, kept exactly. A string "
        "is safest; a number is read digit by digit and never through a float.",
        "oneOf": [{"type": "string", "pattern": _QUANTITY_PATTERN}, {"type": "number", "minimum": 0}],
        "default": "1",
    },
    "status": {
        "type": "string",
        "enum": [status.value for status in Status],
        "default": Status.SUCCEEDED.value,
        "description": "A failed event is recorded and, unless the plan says otherwise, not billed.",
    },
    "feature": _optional(_text("What of your product was used.")),
    "model": _optional(_text("The model that was called.")),
    "tags": {
        "type": "array",
        "items": _text("A label."),
        "maxItems": TAGS_MAX,
        "default": [],
    },
    "properties": {
        "type": "object",
        "additionalProperties": {"type": "string", "maxLength": PROPERTY_BYTES_MAX},
        "maxProperties": PROPERTIES_MAX,
        "default": {},
        "description": "Your own labels. No personal data: they are kept for ever.",
    },
    "input_tokens": _tokens("All tokens of the request, cached ones included."),
    "output_tokens": _tokens("All tokens of the response, reasoning ones included."),
    "cached_tokens": _tokens("The part of input_tokens that came from a cache."),
    "reasoning_tokens": _tokens("The part of output_tokens that was reasoning."),
}
_METER: Final = _optional(_text("The meter that quantity is of. Exactly one of meter and event_type is given."))
_OCCURRED: Final = (
    "When it happened: RFC 3339 with a zone, from 34 days back to 5 minutes ahead. Decimals of a second beyond the sixth "
    "are cut off."
)

_NATIVE: Final = _object(
    ("event_id", "occurred_at", "customer_id"),
    {
        "event_id": _text(
            "Unique for the customer. Send the same id again to retry: it is counted once.", ID_BYTES_MAX
        ),
        "occurred_at": _moment(_OCCURRED),
        "customer_id": _text("Your customer.", ID_BYTES_MAX),
        "meter": _METER,
        "event_type": _optional(_text("A kind of event that the catalog maps to meters, such as llm.call.")),
        **_SHARED,
    },
    about="One use of something by a customer. The organisation is that of the API key.",
)
_DATA: Final = _object(
    (),
    {
        "customer_id": _optional(_text("The customer, where subject does not name it.", ID_BYTES_MAX)),
        "meter": _optional(_text("The meter to count on; without it the catalog maps the attribute type to meters.")),
        **_SHARED,
    },
)
_CLOUD: Final = _object(
    ("specversion", "id", "source", "type", "time"),
    {
        "specversion": {"type": "string", "enum": ["1.0"]},
        "id": {"type": "string", "minLength": 1, "description": "With source, what the event is known by."},
        "source": {"type": "string", "minLength": 1, "format": "uri-reference"},
        "type": _text("The event_type, unless data has a meter."),
        "time": _moment(_OCCURRED),
        "subject": _optional(_text("The customer, unless data.customer_id names it.", ID_BYTES_MAX)),
        "datacontenttype": {"type": ["string", "null"], "default": "application/json"},
        "dataschema": {"type": ["string", "null"]},
        "data": {"oneOf": [ref("CloudEventData"), {"type": "null"}]},
    },
    closed=False,
    about="A CloudEvent 1.0. Extension attributes are let through and not kept; usage fields belong in data.",
)
_REJECTED: Final = _object(
    ("index", "event_id", "reason", "message", "field"),
    {
        "index": {"type": "integer", "minimum": 0, "description": "Its place in the batch, from 0."},
        "event_id": {
            "type": ["string", "null"],
            "description": "Its id where one could be read, cut to 256 characters.",
        },
        "reason": {"type": "string", "enum": [reason.value for reason in _DOOR_REASONS]},
        "message": {"type": "string", "description": "What is wrong, and what to do."},
        "field": {"type": ["string", "null"], "description": "The field at fault, in the sender's spelling."},
    },
    about="An event that was not taken. It is on no log: mended, it may be sent again under the same id.",
)
_REJECTED_LIST: Final = {"type": "array", "items": ref("Rejected")}
_ACCEPTED: Final = _object(
    ("accepted", "rejected"),
    {
        "accepted": {
            "type": "integer",
            "minimum": 0,
            "description": "Events that the log has, on all in-sync replicas. Each will be counted once, or be listed with "
            "the reason why not; repeats of an event id are found then, not here.",
        },
        "rejected": _REJECTED_LIST,
    },
)
_OUTCOME: Final = {
    "status": {"type": "string", "const": "ERROR"},
    "code": {"type": "string"},
    "message": {"type": "string"},
    "timestamp": _moment("When this was answered."),
}
_ERROR_MEMBERS: Final[Schema] = {
    "result": _object(tuple(_OUTCOME), _OUTCOME),
    "error": _object(
        ("code", "message"),
        {
            "code": {"type": "string", "description": "Stable, for programs."},
            "message": {"type": "string", "description": "For people: what is wrong, and what to do."},
            "details": {"type": "object", "description": "By field of the request.", "additionalProperties": True},
        },
    ),
    "correlationId": {"type": "string", "description": "The caller's x-usage-correlation-id, else a new one."},
}
_ALL_REJECTED: Final = _object(
    (*_ERROR_MEMBERS,),
    {**_ERROR_MEMBERS, "accepted": {"type": "integer", "const": 0}, "rejected": _REJECTED_LIST},
    about="With the code ALL_REJECTED, accepted and rejected are as in a 202.",
)
_USAGE: Final = _object(
    ("customer_id", "from", "to", "as_of", "usage"),
    {
        "customer_id": {"type": "string"},
        "from": _moment("Included."),
        "to": _moment("Excluded."),
        "as_of": {
            "type": ["string", "null"],
            "format": "date-time",
            "description": "The answer is complete up to this moment of the log; null before the customer's partition has "
            "had its first event.",
        },
        "usage": {
            "type": "array",
            "items": ref("MeterUsage"),
            "description": "By meter; empty for an unknown customer.",
        },
    },
)
_METER_USAGE: Final = _object(
    ("meter", "quantity", "event_count"),
    {
        "meter": {"type": "string"},
        "quantity": {
            "type": "string",
            "pattern": r"^[0-9]+(\.[0-9]{1,9})?$",
            "description": "Exact. A string, since most JSON readers would make a float of a number.",
        },
        "event_count": {"type": "integer", "minimum": 0},
    },
)
_PROGRESS: Final = _object(
    ("lag_records", "oldest_age_s"),
    {
        "lag_records": {"type": ["integer", "null"], "description": "Records behind the log's end; null: not known."},
        "oldest_age_s": {
            "type": ["number", "null"],
            "description": "For how long the oldest record that is not taken in has waited; 0 where there is none, "
            "null: not known.",
        },
    },
)
_CHECK: Final = _object(
    ("name", "state", "since"),
    {
        "name": {"type": "string"},
        "state": {"type": "string", "enum": ["green", "yellow", "red"]},
        "since": {"type": "string", "format": "date-time", "description": "When it came to this state."},
        "message": {"type": "string", "description": "What is wrong; absent when green."},
        "do": {"type": "string", "description": "What the operator should do; absent when green."},
    },
)
_HEALTH: Final = _object(
    (
        "status",
        "reasons",
        "checked_at",
        "kafka_reachable",
        "clickhouse_reachable",
        "api_keys_loaded",
        "fold",
        "clickhouse_sink",
        "checks",
    ),
    {
        "status": {"type": "string", "enum": ["green", "yellow", "red"]},
        "reasons": {"type": "array", "items": {"type": "string"}, "description": "Why it is not green."},
        "checked_at": {"type": ["string", "null"], "format": "date-time"},
        "kafka_reachable": {"type": "boolean"},
        "clickhouse_reachable": {"type": "boolean"},
        "api_keys_loaded": {"type": "boolean"},
        "fold": ref("Progress"),
        "clickhouse_sink": ref("Progress"),
        "checks": {"type": "array", "items": ref("HealthCheck")},
    },
)

SCHEMAS: Final[dict[str, Schema]] = {
    "NativeEvent": _NATIVE,
    "NativeEvents": {"type": "array", "items": ref("NativeEvent"), "minItems": 1, "maxItems": EVENTS_MAX},
    "NativeBatch": _object(("events",), {"events": ref("NativeEvents")}),
    "CloudEventData": _DATA,
    "CloudEvent": _CLOUD,
    "CloudEvents": {"type": "array", "items": ref("CloudEvent"), "minItems": 1, "maxItems": EVENTS_MAX},
    "Rejected": _REJECTED,
    "Accepted": _ACCEPTED,
    "Error": _object(tuple(_ERROR_MEMBERS), _ERROR_MEMBERS),
    "AllRejected": _ALL_REJECTED,
    "MeterUsage": _METER_USAGE,
    "Usage": _USAGE,
    "Progress": _PROGRESS,
    "HealthCheck": _CHECK,
    "Health": _HEALTH,
}

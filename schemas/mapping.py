"""The doors of usage events: what producers send, in four spellings, as the one UsageEvent.

Each door checks shapes and types; the rules about values are billing's (`billing.metering.rules`). A refusal is an
InvalidField that names the field in the sender's own spelling. No number ever passes through a float.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from billing.errors import InvalidField
from billing.records import Status, Unreadable, UsageEvent
from schemas.codec import decode_record
from schemas.json_fields import Undecodable, decode_fields, quantity_text
from schemas.timestamps import parse_timestamp
from schemas.wire import CloudData, CloudEvent, NativeEvent, misplaced_fields

__all__ = [
    "CSV_COLUMNS",
    "Undecodable",
    "check_csv_columns",
    "cloud_event_id",
    "from_avro",
    "from_cloud_event",
    "from_cloud_event_json",
    "from_csv_row",
    "from_native",
    "from_native_json",
]

_SEND_RFC_3339: Final = "send RFC 3339 with a zone, such as 2026-11-21T13:20:00Z"
_NATIVE_HINTS: Final = {
    "occurred_at": _SEND_RFC_3339,
    "org": "is not a field of usage events: the organisation is that of the API key",
}
_CLOUD_HINTS: Final = {
    "time": _SEND_RFC_3339,
    "event_id": "does not belong in data; it is made from the attributes id and source",
    "occurred_at": "does not belong in data; the attribute time says it",
    "event_type": "does not belong in data; the attribute type says it",
    "org": _NATIVE_HINTS["org"],
}
_ATTRIBUTE_OF: Final = {"event_id": "id and source", "occurred_at": "time", "event_type": "type"}
_TOKEN_COLUMNS: Final = ("input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens")
_TOKEN_DIGITS_MAX: Final = 18
_PROPERTY_PREFIX: Final = "properties."

_native_decoder = msgspec.json.Decoder(NativeEvent)
_cloud_decoder = msgspec.json.Decoder(CloudEvent)


def from_native_json(raw: bytes) -> UsageEvent:
    """One event in our own JSON. Raises InvalidField, and Undecodable for bytes that are no JSON."""
    return from_native(decode_fields(_native_decoder, raw, _NATIVE_HINTS))


def from_native(event: NativeEvent) -> UsageEvent:
    """A decoded native event. Raises InvalidField for a time or a quantity that is none."""
    return UsageEvent(
        event.event_id,
        parse_timestamp("occurred_at", event.occurred_at),
        event.customer_id,
        event.meter,
        event.event_type,
        quantity_text(event.quantity),
        event.status,
        event.feature,
        event.model,
        event.tags,
        event.properties,
        event.input_tokens,
        event.output_tokens,
        event.cached_tokens,
        event.reasoning_tokens,
    )


def from_cloud_event_json(raw: bytes) -> UsageEvent:
    """One CloudEvent in structured mode. Raises InvalidField, and Undecodable for bytes that are no JSON."""
    return from_cloud_event(decode_fields(_cloud_decoder, raw, _CLOUD_HINTS))


def from_cloud_event(event: CloudEvent) -> UsageEvent:
    """A decoded CloudEvent: `id` and `source` make the event id; `time`, `subject` and `type` say when, who and what.

    `data.customer_id` goes before `subject`; with `data.meter` the event counts on that meter and its type is not kept.
    """
    _check_envelope(event)
    data = event.data or CloudData()
    customer_id = event.subject if data.customer_id is None else data.customer_id
    if customer_id is None:
        raise InvalidField("subject", "is missing; name the customer in subject or in data.customer_id")
    return UsageEvent(
        cloud_event_id(event.source, event.id),
        parse_timestamp("time", event.time),
        customer_id,
        data.meter,
        event.type if data.meter is None else None,
        quantity_text(data.quantity),
        data.status,
        data.feature,
        data.model,
        data.tags,
        data.properties,
        data.input_tokens,
        data.output_tokens,
        data.cached_tokens,
        data.reasoning_tokens,
    )


def cloud_event_id(source: str, event_id: str) -> str:
    """What stands for the pair: the length of `source` in UTF-8 bytes, a colon, `source`, `event_id`.

    The length keeps pairs apart that run together alike: ("a", "bc") and ("ab", "c").
    """
    return f"{len(source.encode())}:{source}{event_id}"


def from_avro(data: bytes) -> UsageEvent:
    """One event in Avro's single-object encoding, as it lies on the log. Raises Undecodable."""
    record = decode_record(data)
    if isinstance(record, Unreadable):
        raise Undecodable(record.detail)
    if not isinstance(record, UsageEvent):
        msg = f"a record of kind {type(record).__name__} is not a usage event"
        raise Undecodable(msg)
    return record


CSV_COLUMNS: Final = tuple(name for name in NativeEvent.__struct_fields__ if name != "properties")
"""A CSV file's columns, and `properties.NAME` for each property."""


def check_csv_columns(names: tuple[str, ...]) -> None:
    """Raises InvalidField for a header that lacks a needed column, names one twice or one that usage events do not have."""
    for name in names:
        if names.count(name) > 1:
            raise InvalidField(name or "(empty)", "stands twice in the header; which of the two counts cannot be told")
        if name not in CSV_COLUMNS and not name.startswith(_PROPERTY_PREFIX):
            known = ", ".join((*CSV_COLUMNS, "properties.NAME"))
            raise InvalidField(name or "(empty)", f"is not a column of usage events; those are {known}")
    for name in ("event_id", "occurred_at", "customer_id"):
        if name not in names:
            raise InvalidField(name, "is missing; each event needs it, so the header must name it")


def from_csv_row(row: Mapping[str, str]) -> UsageEvent:
    """One row of a CSV file by column name, its header checked; an empty cell is an absent field. Raises InvalidField.

    `tags` holds several separated by `;`; a property has a column of its own, `properties.NAME`.
    """
    cells = {name: text for name, text in row.items() if text}
    for name in ("event_id", "occurred_at", "customer_id"):
        if name not in cells:
            raise InvalidField(name, "is missing")
    prefix = len(_PROPERTY_PREFIX)
    return UsageEvent(
        cells["event_id"],
        parse_timestamp("occurred_at", cells["occurred_at"]),
        cells["customer_id"],
        cells.get("meter"),
        cells.get("event_type"),
        cells.get("quantity", "1"),
        cells.get("status", Status.SUCCEEDED),
        cells.get("feature"),
        cells.get("model"),
        tuple(cells["tags"].split(";")) if "tags" in cells else (),
        {name[prefix:]: text for name, text in cells.items() if name.startswith(_PROPERTY_PREFIX)},
        *(_whole(name, cells.get(name)) for name in _TOKEN_COLUMNS),
    )


def _whole(name: str, text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= _TOKEN_DIGITS_MAX):
        raise InvalidField(name, f"{text[:48]!r} is not a whole number of at most {_TOKEN_DIGITS_MAX} digits")
    return int(text)


def _check_envelope(event: CloudEvent) -> None:
    if event.specversion != "1.0":
        raise InvalidField("specversion", f"{event.specversion[:48]!r} is not known; 1.0 is")
    for name in ("id", "source", "type"):
        if not getattr(event, name):
            raise InvalidField(name, "is empty; send at least one character")
    content_type = (event.datacontenttype or "application/json").partition(";")[0].strip().lower()
    if content_type != "application/json" and not content_type.endswith("+json"):
        raise InvalidField("datacontenttype", f"{content_type[:48]!r} is not JSON; data must be a JSON object")
    for name in misplaced_fields(event):
        raise InvalidField(name, _where_it_belongs(name))


def _where_it_belongs(name: str) -> str:
    if name == "data_base64":
        return "cannot be read; send data as a JSON object"
    if name in _ATTRIBUTE_OF:
        return f"is not an attribute of CloudEvents; it is made from {_ATTRIBUTE_OF[name]}"
    return "stands beside data; usage fields belong in data"

"""What an independent producer puts on the wire: Avro by its specification, and records that are broken on purpose.

Nothing of the product is imported: the schema's text is read as any producer would read it.
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Final, NamedTuple

import fastavro
from fastavro.schema import to_parsing_canonical_form

from tests.faults.naive import Sent

__all__ = ["BROKEN", "FORGED", "ODD_HEADERS", "Record", "decode_event", "is_event", "record_of", "to_json"]

_SCHEMAS = Path(__file__).resolve().parents[2] / "schemas" / "avro"
_MARKER: Final = b"\xc3\x01"
_PREFIX_BYTES: Final = 10
_RABIN_EMPTY: Final = 0xC15D213AA4D7A795
_HOUR_US: Final = 3_600_000_000
_BIG_BYTES: Final = 900_000
"""Near the largest record that the topic takes (1 MiB)."""


class Record(NamedTuple):
    """One record for `usage-events`."""

    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[bytes, bytes | None], ...] = ()
    timestamp_ms: int = 0
    """0: now. The broker keeps it only where the topic is timed by its producers."""


def record_of(event: Sent) -> Record:
    return Record(event.account.encode(), _encode(_fields(event)))


def to_json(event: Sent) -> dict[str, Any]:
    """The event as native JSON. Its time is told in one of two zones, its quantity as text."""
    zone = UTC if event.occurred_at_us % 2 else timezone(timedelta(hours=2))
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=event.occurred_at_us)
    fields = _fields(event) | {"occurred_at": moment.astimezone(zone).isoformat()}
    del fields["occurred_at_us"]
    return {name: value for name, value in fields.items() if value is not None}


def is_event(value: bytes | None) -> bool:
    """Whether a record of the topic is accounted for as a usage event: all but the known kinds of other records."""
    return value is None or value[:_PREFIX_BYTES] not in _OTHERS


def decode_event(value: bytes | None) -> str | None:
    """The event's id, where the value can be read at all."""
    if value is None or not value.startswith(_USAGE_EVENT.prefix):
        return None
    try:
        found: Any = fastavro.schemaless_reader(io.BytesIO(value[_PREFIX_BYTES:]), _USAGE_EVENT.parsed, None)
    except (EOFError, ValueError, IndexError):
        return None
    return str(found["event_id"])


class _Schema(NamedTuple):
    prefix: bytes
    parsed: Any


def _schema(name: str) -> _Schema:
    raw = json.loads((_SCHEMAS / f"{name}.1.avsc").read_text())
    print_ = _rabin(to_parsing_canonical_form(raw).encode())
    return _Schema(_MARKER + struct.pack("<Q", print_), fastavro.parse_schema(raw))


def _rabin(data: bytes) -> int:
    """The CRC-64-AVRO fingerprint, as the specification has it."""
    found = _RABIN_EMPTY
    for byte in data:
        found ^= byte
        for _ in range(8):
            found = (found >> 1) ^ (_RABIN_EMPTY if found & 1 else 0)
    return found


def _write(schema: _Schema, fields: dict[str, Any]) -> bytes:
    out = io.BytesIO()
    out.write(schema.prefix)
    fastavro.schemaless_writer(out, schema.parsed, fields)
    return out.getvalue()


_USAGE_EVENT = _schema("usage_event")
_OTHERS = {_schema(name).prefix for name in ("genesis", "tick", "command")}


def _encode(fields: dict[str, Any]) -> bytes:
    return _write(_USAGE_EVENT, fields)


def _fields(event: Sent) -> dict[str, Any]:
    return {
        "event_id": event.event_id,
        "occurred_at_us": event.occurred_at_us,
        "customer_id": event.customer,
        "meter": event.meter,
        "event_type": "llm.call" if event.meter is None else None,
        "quantity": event.quantity,
        "status": "failed" if event.failed else "succeeded",
        "feature": event.feature,
        "model": event.model,
        "input_tokens": event.input_tokens,
        "output_tokens": event.output_tokens,
        "cached_tokens": event.cached_tokens,
        "reasoning_tokens": event.reasoning_tokens,
    }


# Broken records


def _with(**changes: object) -> Callable[[Sent], Record]:
    """The event with other fields."""
    return lambda event: Record(event.account.encode(), _encode(_fields(event) | changes))


def _keyed(key: bytes | None) -> Callable[[Sent], Record]:
    return lambda event: Record(key, record_of(event).value)


def _valued(make: Callable[[bytes], bytes | None]) -> Callable[[Sent], Record]:
    def made(event: Sent) -> Record:
        good = record_of(event)
        assert good.value is not None, "an event has a value"
        return Record(good.key, make(good.value))

    return made


def _later(delta_us: int) -> Callable[[Sent], Record]:
    return lambda event: record_of(event._replace(occurred_at_us=event.occurred_at_us + delta_us))


def _not_utf8_in_a_string(value: bytes) -> bytes:
    return value.replace(b"succeeded", b"succee\xff\xfe")


BROKEN: Final[dict[str, tuple[str, Callable[[Sent], Record]]]] = {
    "garbage bytes": ("unreadable", _valued(lambda _: b"\x00\x01garbage\xff" * 7)),
    "JSON": ("unreadable", _valued(lambda _: b'{"event_id": "a"}')),
    "a value of no bytes": ("unreadable", _valued(lambda _: b"")),
    "no value": ("unreadable", _valued(lambda _: None)),
    "neither key nor value": ("unreadable", lambda _: Record(None, None)),
    "the marker alone": ("unreadable", _valued(lambda value: value[:2])),
    "half a fingerprint": ("unreadable", _valued(lambda value: value[:6])),
    "an unknown fingerprint": ("unreadable", _valued(lambda value: _MARKER + b"\x01" * 8 + value[_PREFIX_BYTES:])),
    "half a record": ("unreadable", _valued(lambda value: value[: len(value) // 2])),
    "a fingerprint and no record": ("unreadable", _valued(lambda value: value[:_PREFIX_BYTES])),
    "bytes behind the record": ("unreadable", _valued(lambda value: value + b"\x00")),
    "text that is not UTF-8": ("unreadable", _valued(_not_utf8_in_a_string)),
    "a huge value": ("unreadable", _valued(lambda _: b"\xc3" * _BIG_BYTES)),
    "no key": ("key_mismatch", _keyed(None)),
    "a key of no bytes": ("key_mismatch", _keyed(b"")),
    "a key that is not UTF-8": ("key_mismatch", _keyed(b"acme/\xff\xfe")),
    "a key without an org": ("key_mismatch", _keyed(b"customer")),
    "a key with an org that is none": ("key_mismatch", _keyed(b"ACME/customer")),
    "another customer's key": ("key_mismatch", _keyed(b"acme/somebody-else")),
    "a huge key": ("key_mismatch", _keyed(b"acme/" + b"k" * _BIG_BYTES)),
    "a negative quantity": ("invalid_field", _with(quantity="-1")),
    "a quantity of 40 digits": ("invalid_field", _with(quantity="9" * 40)),
    "NaN": ("invalid_field", _with(quantity="NaN")),
    "a quantity with an exponent": ("invalid_field", _with(quantity="1e3")),
    "ten decimals": ("invalid_field", _with(quantity="0.0000000001")),
    "digits of another script": ("invalid_field", _with(quantity="\u0661\u0662")),
    "an id of 10 kB": ("invalid_field", _with(event_id="i" * 10_000)),
    "a huge id": ("invalid_field", _with(event_id="i" * _BIG_BYTES)),
    "no id": ("invalid_field", _with(event_id="")),
    "an id with a control character": ("invalid_field", _with(event_id="a\x00b")),
    "a status of its own": ("invalid_field", _with(status="perhaps")),
    "meter and event type": ("invalid_field", _with(meter="calls", event_type="llm.call")),
    "neither meter nor event type": ("invalid_field", _with(meter=None, event_type=None)),
    "negative tokens": ("invalid_field", _with(input_tokens=-1)),
    "a time before 1970": ("invalid_field", _with(occurred_at_us=-1)),
    "the largest time": ("invalid_field", _with(occurred_at_us=(1 << 63) - 1)),
    "70 days old": ("too_old", _later(-70 * 24 * _HOUR_US)),
    "ten hours ahead": ("in_future", _later(10 * _HOUR_US)),
    "a meter that nobody knows": ("unknown_meter", _with(meter="kilograms", event_type=None)),
    "a custom meter that no plan names": ("meter_not_enabled", _with(meter="custom1", event_type=None)),
}
"""Each kind of broken record: the reason that it must be given, and how it is made of a good event."""

ODD_HEADERS: Final[dict[str, tuple[tuple[bytes, bytes | None], ...]]] = {
    "a header without a value": ((b"trace", None),),
    "a header without a name": ((b"", b"x"),),
    "a header of any bytes": ((b"trace", bytes(range(256))),),
    "a header name that is not UTF-8": ((b"\xff\xfe", b"x"), (b"trace\xff", None)),
    "a huge header": ((b"baggage", b"h" * _BIG_BYTES),),
    "a thousand headers": tuple((b"n%d" % n, b"v") for n in range(1_000)),
}
"""Headers decide nothing: an event with any of these counts."""

FORGED: Final[dict[str, bytes]] = {
    "a command that nobody signed": _write(
        _schema("command"),
        {
            "type": "change_plan",
            "deployment_id": "x",
            "request_id": bytes(16),
            "issued_at_ms": 0,
            "value": b"",
            "key_id": "k",
            "signature": bytes(64),
        },
    ),
    "a second genesis": _write(
        _schema("genesis"),
        {"deployment_id": "x", "incarnation": 7, "partition_count": 1, "operator_public_key": bytes(32)},
    ),
    "a tick that no owner sent": _write(_schema("tick"), {"issued_at_ms": 1 << 60}),
}
"""Records that are no usage events, from somebody who may only send usage."""

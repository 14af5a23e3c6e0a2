"""Usage events to Avro by hand: the same bytes as `schemas.codec.encode`, at a third of its cost.

The doors encode every event that is ever counted: 8.0 µs with the library, 3.0 µs here, beside 6 µs for all else that
the HTTP door does. The layout is that of the newest schema; the test compares both encoders on generated events.
"""

from functools import cache
from typing import Final

from billing.records import UsageEvent
from schemas.codec import encode

__all__ = ["encode_usage_event"]

_CHUNK_BITS: Final = 14
_CHUNK_MAX: Final = 1 << _CHUNK_BITS
# Two bytes of a number at a time from tables: a time in microseconds has eight, and looping over them cost 1 µs.
_LAST: Final = tuple(bytes([n]) if n < 0x80 else bytes([n & 0x7F | 0x80, n >> 7]) for n in range(_CHUNK_MAX))
_MORE: Final = tuple(bytes([n & 0x7F | 0x80, n >> 7 | 0x80]) for n in range(_CHUNK_MAX))
_NULL: Final = b"\x00"
_PRESENT: Final = b"\x02"
_NO_ITEMS: Final = b"\x00"
_HEADER_BYTES: Final = 10


def encode_usage_event(event: UsageEvent) -> bytes:
    """The event as it lies on `usage-events`: marker, fingerprint, body."""
    return b"".join(
        (
            _header(),
            _text(event.event_id),
            _long(event.occurred_at_us),
            _text(event.customer_id),
            _NULL if event.meter is None else _PRESENT + _text(event.meter),
            _NULL if event.event_type is None else _PRESENT + _text(event.event_type),
            _text(event.quantity),
            _text(event.status),
            _NULL if event.feature is None else _PRESENT + _text(event.feature),
            _NULL if event.model is None else _PRESENT + _text(event.model),
            _array(event.tags) if event.tags else _NO_ITEMS,
            _map(event.properties) if event.properties else _NO_ITEMS,
            _NULL if event.input_tokens is None else _PRESENT + _long(event.input_tokens),
            _NULL if event.output_tokens is None else _PRESENT + _long(event.output_tokens),
            _NULL if event.cached_tokens is None else _PRESENT + _long(event.cached_tokens),
            _NULL if event.reasoning_tokens is None else _PRESENT + _long(event.reasoning_tokens),
        )
    )


def _text(text: str) -> bytes:
    data = text.encode()
    return _long(len(data)) + data


def _long(number: int) -> bytes:
    """Zig-zag, then seven bits a byte, the lowest first."""
    left = (number << 1) ^ (number >> 63)
    if left < _CHUNK_MAX:
        return _LAST[left]
    out = b""
    while left >= _CHUNK_MAX:
        out += _MORE[left & (_CHUNK_MAX - 1)]
        left >>= _CHUNK_BITS
    return out + _LAST[left]


def _array(items: tuple[str, ...]) -> bytes:
    return b"".join((_long(len(items)), *map(_text, items), _NO_ITEMS))


def _map(items: dict[str, str]) -> bytes:
    return b"".join((_long(len(items)), *(_text(name) + _text(text) for name, text in items.items()), _NO_ITEMS))


@cache
def _header() -> bytes:
    return encode(UsageEvent("", 0, ""))[:_HEADER_BYTES]

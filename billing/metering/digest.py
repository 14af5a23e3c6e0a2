"""The digests that let anyone check which events are under a total, and whether a repeat says the same.

An event's digest on a meter is the first 16 bytes, little-endian, of SHA-256 over event id, meter, quantity (plain decimal)
and `occurred_at` in microseconds, each preceded by its UTF-8 length and `:`. A total's digest is their sum mod 2^128. In SQL:
`sum(reinterpretAsUInt128(substring(SHA256(x), 1, 16)))`.
"""

from hashlib import blake2b, sha256

import msgspec

from billing.quantities import parse_quantity, plain
from billing.records import UsageEvent

__all__ = ["DIGEST_MODULUS", "entry_digest", "payload_digest"]

DIGEST_MODULUS = 1 << 128
_PAYLOAD_DIGEST_BYTES = 16

_payload = msgspec.msgpack.Encoder()


def entry_digest(event_id: str, meter: str, quantity: str, occurred_at_us: int) -> int:
    """The digest of one event's entry on one meter."""
    occurred = str(occurred_at_us)
    if event_id.isascii():
        text = f"{len(event_id)}:{event_id}{len(meter)}:{meter}{len(quantity)}:{quantity}{len(occurred)}:{occurred}".encode()
    else:
        parts = (event_id.encode(), meter.encode(), quantity.encode(), occurred.encode())
        text = b"".join(b"%d:%b" % (len(part), part) for part in parts)
    return int.from_bytes(sha256(text).digest()[:16], "little")


def payload_digest(event: UsageEvent) -> bytes:
    """16 bytes over all fields in schema order, quantity normalised, map keys in the order of their UTF-8 bytes."""
    if not event.quantity.isdigit() or event.quantity[0] == "0":
        event = msgspec.structs.replace(event, quantity=plain(parse_quantity(event.quantity)))
    if len(event.properties) > 1:
        ordered = dict(sorted(event.properties.items(), key=lambda item: item[0].encode()))
        event = msgspec.structs.replace(event, properties=ordered)
    return blake2b(_payload.encode(event), digest_size=_PAYLOAD_DIGEST_BYTES).digest()

"""The fold's rows as bytes: keys whose byte order is the rows' order, values as MessagePack arrays with a leading version.

A key begins with a letter for its family; numbers are 8 bytes, big-endian; text ends in a zero byte, which no name on the log
may hold. The tables and their changelogs hold exactly these bytes.
"""

import struct
from collections.abc import Callable
from typing import Any, Final, Generic, NamedTuple, TypeVar

import msgspec

from billing.catalog.types import PlanRef
from billing.metering.rules import SEEN_MS
from billing.records import UsageEvent
from billing.state import (
    Account,
    Counter,
    Late,
    LateKey,
    PairsKey,
    PartitionRow,
    Quarantine,
    Seen,
    SeenKey,
    StripeHour,
    StripeHourKey,
    Total,
    TotalKey,
)

__all__ = [
    "ACCOUNTS",
    "LATE",
    "PAIRS",
    "POSITION_KEY",
    "QUARANTINES",
    "SEEN",
    "STRIPE_HOURS",
    "TOTALS",
    "Parked",
    "PositionRow",
    "RowCodec",
    "decode_position",
    "encode_position",
    "seen_expires_at_ms",
]

K = TypeVar("K")
V = TypeVar("V")

POSITION_KEY: Final = b"\x00position"
_VERSION: Final = 1
_NUMBER: Final = struct.Struct(">Q")
_encode = msgspec.msgpack.Encoder().encode


class Parked(msgspec.Struct, frozen=True, array_like=True):
    """Where a partition stands until an operator's order, whoever owns it."""

    offset: int
    """The record that is not folded."""
    message: str
    """What happened, and the commands that go on."""


class PositionRow(msgspec.Struct, frozen=True, array_like=True):
    """How far the fold's rows reflect the log: the only position there is. Written with the rows, in one transaction."""

    version: int
    next_offset: int
    last_offset: int
    """The record folded last; -1 before the first."""
    last_append_ms: int
    log_ms: int
    """Log time: the highest append time so far."""
    deployment_id: str
    incarnation: int
    partition_count: int
    operator_public_key: bytes
    last_digest: bytes = b""
    """Of the record folded last, with its key, headers and append time: read again, it shows a log that is another."""
    behaviour_version: int = 1
    still: tuple[tuple[int, int], ...] = ()
    honoured: tuple[int, ...] = ()
    parked: Parked | None = None
    """Set: nobody may fold on without an operator's order."""
    snapshot_month_s: int = 0
    snapshot_cursor: str | None = None

    @property
    def partition_row(self) -> PartitionRow:
        return PartitionRow(
            self.deployment_id,
            self.incarnation,
            self.partition_count,
            self.operator_public_key,
            self.behaviour_version,
            self.still,
            self.honoured,
            self.snapshot_month_s,
            self.snapshot_cursor,
        )


_decode_position = msgspec.msgpack.Decoder(PositionRow).decode


def encode_position(
    next_offset: int,
    last_offset: int,
    last_append_ms: int,
    last_digest: bytes,
    log_ms: int,
    row: PartitionRow,
    parked: Parked | None = None,
) -> bytes:
    return _encode(
        PositionRow(
            _VERSION,
            next_offset,
            last_offset,
            last_append_ms,
            log_ms,
            row.deployment_id,
            row.incarnation,
            row.partition_count,
            row.operator_public_key,
            last_digest,
            row.behaviour_version,
            row.still,
            row.honoured,
            parked,
            row.snapshot_month_s,
            row.snapshot_cursor,
        )
    )


def decode_position(value: bytes) -> PositionRow:
    return _decode_position(value)


class RowCodec(NamedTuple, Generic[K, V]):
    """How one family of rows lies in its table. The account, where it is not the whole key, is the key's second part."""

    table: str
    prefix: bytes
    encode_key: Callable[[K], bytes]
    decode_key: Callable[[bytes], K]
    encode_row: Callable[[V], bytes]
    decode_row: Callable[[bytes], V]

    def bound(self, number: int) -> bytes:
        """The first key whose leading number is `number`."""
        return self.prefix + _NUMBER.pack(max(number, 0))

    def behind(self, number: int, account: str) -> bytes:
        """The first key behind all that lead with `number` and `account`: their next byte is a zero."""
        return self.bound(number) + account.encode() + b"\x01"


class _AccountRow(msgspec.Struct, frozen=True, array_like=True):
    version: int
    plan: PlanRef
    opened_at_ms: int
    stripe_customer: str
    counters: dict[str, tuple[int, str]]
    applied_offset: int


class _SeenRow(msgspec.Struct, frozen=True, array_like=True):
    version: int
    accepted_at_ms: int
    first_offset: int
    payload_digest: bytes


class _TotalRow(msgspec.Struct, frozen=True, array_like=True):
    version: int
    quantity_nano: str
    event_count: int
    digest: bytes
    version_offset: int


class _StripeHourRow(msgspec.Struct, frozen=True, array_like=True):
    version: int
    quantity_nano: str
    version_offset: int


class _LateRow(msgspec.Struct, frozen=True, array_like=True):
    version: int
    received_offset: int
    payload_digest: bytes
    event: UsageEvent | None
    approved: bool


class _PairsRow(msgspec.Struct, frozen=True, array_like=True):
    version: int
    pairs: tuple[tuple[str, str], ...]


class _QuarantineRow(msgspec.Struct, frozen=True, array_like=True):
    version: int
    number: int
    aside: bool


_decode_account_row = msgspec.msgpack.Decoder(_AccountRow).decode
_decode_seen_row = msgspec.msgpack.Decoder(_SeenRow).decode
_decode_total_row = msgspec.msgpack.Decoder(_TotalRow).decode
_decode_stripe_hour_row = msgspec.msgpack.Decoder(_StripeHourRow).decode
_decode_late_row = msgspec.msgpack.Decoder(_LateRow).decode
_decode_pairs_row = msgspec.msgpack.Decoder(_PairsRow).decode
_decode_quarantine_row = msgspec.msgpack.Decoder(_QuarantineRow).decode


def _encode_account(row: Account) -> bytes:
    counters = {meter: (c.period_start_s, str(c.used_nano)) for meter, c in row.counters.items()}
    return _encode(_AccountRow(_VERSION, row.plan, row.opened_at_ms, row.stripe_customer, counters, row.applied_offset))


def _decode_account(value: bytes) -> Account:
    row = _decode_account_row(value)
    counters = {meter: Counter(start_s, int(used)) for meter, (start_s, used) in row.counters.items()}
    return Account(row.plan, row.opened_at_ms, row.stripe_customer, counters, row.applied_offset)


def _encode_seen(row: Seen) -> bytes:
    return _encode(_SeenRow(_VERSION, row.accepted_at_ms, row.first_offset, row.payload_digest))


def _decode_seen(value: bytes) -> Seen:
    row = _decode_seen_row(value)
    return Seen(row.accepted_at_ms, row.first_offset, row.payload_digest)


def seen_expires_at_ms(value: bytes) -> int:
    """The log time from which no decision can see this row of `seen`, whether or not it is still stored."""
    return _decode_seen_row(value).accepted_at_ms + SEEN_MS


def _encode_total(row: Total) -> bytes:
    digest = row.digest.to_bytes(16, "little")
    return _encode(_TotalRow(_VERSION, str(row.quantity_nano), row.event_count, digest, row.version_offset))


def _decode_total(value: bytes) -> Total:
    row = _decode_total_row(value)
    return Total(int(row.quantity_nano), row.event_count, int.from_bytes(row.digest, "little"), row.version_offset)


def _encode_stripe_hour(row: StripeHour) -> bytes:
    return _encode(_StripeHourRow(_VERSION, str(row.quantity_nano), row.version_offset))


def _decode_stripe_hour(value: bytes) -> StripeHour:
    row = _decode_stripe_hour_row(value)
    return StripeHour(int(row.quantity_nano), row.version_offset)


def _encode_late(row: Late) -> bytes:
    return _encode(_LateRow(_VERSION, row.received_offset, row.payload_digest, row.event, row.approved))


def _decode_late(value: bytes) -> Late:
    row = _decode_late_row(value)
    return Late(row.received_offset, row.payload_digest, row.event, row.approved)


def _encode_pairs(row: frozenset[tuple[str, str]]) -> bytes:
    return _encode(_PairsRow(_VERSION, tuple(sorted(row))))


def _decode_pairs(value: bytes) -> frozenset[tuple[str, str]]:
    return frozenset(_decode_pairs_row(value).pairs)


def _encode_quarantine(row: Quarantine) -> bytes:
    return _encode(_QuarantineRow(_VERSION, row.number, row.aside))


def _decode_quarantine(value: bytes) -> Quarantine:
    row = _decode_quarantine_row(value)
    return Quarantine(row.number, row.aside)


# One expression a key: joining parts in a loop took twice as long, 2 µs for each row of an event.


def _total_key(key: TotalKey) -> bytes:
    day, account, billing_start_s, meter, feature, model, hour = key
    labels = f"{meter}\0{feature}\0{model}\0".encode()
    start = _NUMBER.pack(billing_start_s)
    return b"t%b%b\0%b%b%b" % (_NUMBER.pack(day), account.encode(), start, labels, _NUMBER.pack(hour))


def _pairs_key(key: PairsKey) -> bytes:
    return b"p%b%b\0" % (_NUMBER.pack(key[0]), key[1].encode())


def _stripe_hour_key(key: StripeHourKey) -> bytes:
    hour, account, stripe_customer, event_name = key
    return b"u%b%b" % (_NUMBER.pack(hour), f"{account}\0{stripe_customer}\0{event_name}\0".encode())


def _parts_of(key: bytes, shape: str) -> list[Any]:
    """The parts of a key without its prefix; `shape` has an `n` for each number and a `t` for each text."""
    parts: list[Any] = []
    at = 1
    for kind in shape:
        if kind == "n":
            parts.append(_NUMBER.unpack_from(key, at)[0])
            at += _NUMBER.size
        else:
            end = key.index(b"\x00", at)
            parts.append(key[at:end].decode())
            at = end + 1
    return parts


ACCOUNTS: Final = RowCodec[str, Account](
    "accounts", b"a", lambda key: b"a" + key.encode(), lambda key: key[1:].decode(), _encode_account, _decode_account
)
SEEN: Final = RowCodec[SeenKey, Seen](
    "seen",
    b"s",
    lambda key: b"s%b\x00%b" % (key[0].encode(), key[1].encode()),
    lambda key: SeenKey(*(part.decode() for part in key[1:].split(b"\x00"))),
    _encode_seen,
    _decode_seen,
)
TOTALS: Final = RowCodec[TotalKey, Total](
    "accounts",
    b"t",
    _total_key,
    lambda key: TotalKey(*_parts_of(key, "ntntttn")),
    _encode_total,
    _decode_total,
)
LATE: Final = RowCodec[LateKey, Late](
    "accounts",
    b"l",
    lambda key: b"l%b\x00%b" % (key[0].encode(), key[1].encode()),
    lambda key: LateKey(*(part.decode() for part in key[1:].split(b"\x00"))),
    _encode_late,
    _decode_late,
)
PAIRS: Final = RowCodec[PairsKey, frozenset[tuple[str, str]]](
    "accounts",
    b"p",
    _pairs_key,
    lambda key: PairsKey(*_parts_of(key, "nt")),
    _encode_pairs,
    _decode_pairs,
)
STRIPE_HOURS: Final = RowCodec[StripeHourKey, StripeHour](
    "accounts",
    b"u",
    _stripe_hour_key,
    lambda key: StripeHourKey(*_parts_of(key, "nttt")),
    _encode_stripe_hour,
    _decode_stripe_hour,
)
QUARANTINES: Final = RowCodec[str, Quarantine](
    "accounts",
    b"q",
    lambda key: b"q" + key.encode(),
    lambda key: key[1:].decode(),
    _encode_quarantine,
    _decode_quarantine,
)

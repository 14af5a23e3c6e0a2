"""An operator's orders: what a partition does that its rules would not do by themselves.

On the log an order is a `Command` with `key_id` "operator", signed with the key that the genesis names. Its `type` is the
order's tag, its `value` the order as a MessagePack array: [type, fields…]. Fields are only ever added, at the end, with a
default. Orders that name a position are worth nothing anywhere else; orders about an account are numbered by `issued_at_ms`.
"""

from typing import Any, Final

import msgspec

from billing.errors import InvalidField
from billing.records import Position

__all__ = [
    "OPERATOR",
    "Order",
    "QuarantineAccount",
    "QuarantineRecord",
    "ReleaseAccount",
    "Resume",
    "SwitchBehaviour",
    "Time",
    "decode_order",
    "encode_order",
    "order_type",
]

OPERATOR: Final = "operator"
"""The `key_id` of whoever holds the private half of the genesis' key."""


class QuarantineRecord(msgspec.Struct, frozen=True, array_like=True, tag="quarantine_record"):
    """Set the record at `position` aside: it is not decided, its time does not count, and it causes a refusal."""

    position: Position


class QuarantineAccount(msgspec.Struct, frozen=True, array_like=True, tag="quarantine_account"):
    """Set aside what concerns the account until a release: its records, and what of it falls due."""

    account: str
    """`org/customer`."""
    position: Position | None
    """The record at which the partition stands, from which on it holds; None: from the order's own place on."""


class ReleaseAccount(msgspec.Struct, frozen=True, array_like=True, tag="release_account"):
    """End the account's quarantine. What was set aside stays so; its dead letters can be replayed."""

    account: str


class Resume(msgspec.Struct, frozen=True, array_like=True, tag="resume"):
    """Fold the record at `position` as any other: the code was mended, or its time is right."""

    position: Position


class Time(msgspec.Struct, frozen=True, array_like=True, tag="time"):
    """From `position` to `last_offset`, both included, log time stays where it was: a broker's clock was wrong."""

    position: Position
    last_offset: int


class SwitchBehaviour(msgspec.Struct, frozen=True, array_like=True, tag="switch_behaviour"):
    """From the next record on the rules of behaviour `version` hold: the one after the present."""

    version: int


Order = QuarantineRecord | QuarantineAccount | ReleaseAccount | Resume | Time | SwitchBehaviour

_KINDS: Final[tuple[type[Any], ...]] = (
    QuarantineRecord,
    QuarantineAccount,
    ReleaseAccount,
    Resume,
    Time,
    SwitchBehaviour,
)
_TYPES: Final[dict[type[Any], str]] = {kind: str(kind.__struct_config__.tag) for kind in _KINDS}
_DECODERS: Final = {name: msgspec.msgpack.Decoder(kind) for kind, name in _TYPES.items()}
_encode = msgspec.msgpack.Encoder().encode


def order_type(order: Order) -> str:
    """The order's word on the log, a command's `type`."""
    return _TYPES[type(order)]


def encode_order(order: Order) -> bytes:
    """The command's `value`."""
    return _encode(order)


def decode_order(type_name: str, value: bytes) -> Order:
    """The order that a command of this type and value is. Raises InvalidField where it is none."""
    decoder = _DECODERS.get(type_name)
    if decoder is None:
        raise InvalidField("type", f"{type_name[:48]!a} is no order; use one of {', '.join(sorted(_DECODERS))}")
    try:
        order: Order = decoder.decode(value)
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise InvalidField("value", f"is no MessagePack of {type_name}; give orders with the meterlog command") from exc
    if isinstance(order, Time) and order.last_offset < order.position.offset:
        raise InvalidField("last_offset", f"{order.last_offset} lies before the first, {order.position.offset}")
    return order

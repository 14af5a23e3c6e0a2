"""What is asked about late usage, as it lies on the log.

A `Command` under the account's key, signed by the operator. Its `type` is the request's tag, its `value` the request as a
MessagePack array: [type, fields…]. Fields are only ever added, at the end, with a default.
"""

from typing import Any, Final

import msgspec

from billing.errors import InvalidField
from billing.records import UsageEvent

__all__ = [
    "LATE_TYPES",
    "Approve",
    "LateRequest",
    "LateUsage",
    "Reject",
    "decode_late",
    "encode_late",
    "late_type",
]


class LateUsage(msgspec.Struct, frozen=True, array_like=True, tag="late_usage"):
    """An event that is older than the window: it waits until a person approves or rejects it."""

    event: UsageEvent


class Approve(msgspec.Struct, frozen=True, array_like=True, tag="late_approve"):
    """Count the waiting event, here and now."""

    event_id: str


class Reject(msgspec.Struct, frozen=True, array_like=True, tag="late_reject"):
    """Never count the waiting event."""

    event_id: str


LateRequest = LateUsage | Approve | Reject

_KINDS: Final[tuple[type[Any], ...]] = (LateUsage, Approve, Reject)
_TYPES: Final[dict[type[Any], str]] = {kind: str(kind.__struct_config__.tag) for kind in _KINDS}
_DECODERS: Final = {name: msgspec.msgpack.Decoder(kind) for kind, name in _TYPES.items()}
_encode = msgspec.msgpack.Encoder().encode

LATE_TYPES: Final = frozenset(_DECODERS)


def late_type(request: LateRequest) -> str:
    """The request's word on the log, a command's `type`."""
    return _TYPES[type(request)]


def encode_late(request: LateRequest) -> bytes:
    """The command's `value`."""
    return _encode(request)


def decode_late(type_name: str, value: bytes) -> LateRequest:
    """The request that a command of one of LATE_TYPES is. Raises InvalidField where its value is none."""
    try:
        request: LateRequest = _DECODERS[type_name].decode(value)
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise InvalidField("value", f"is no MessagePack of {type_name}; use the meterlog command") from exc
    return request

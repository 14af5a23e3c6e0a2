"""The shapes in which usage events arrive as JSON. Types only; what they become is in `schemas.mapping`."""

from typing import Any, Final

import msgspec

from billing.records import Status

__all__ = ["CloudData", "CloudEvent", "NativeEvent", "misplaced_fields"]

_ONE: Final = msgspec.Raw(b'"1"')
_NOT_GIVEN: Final = msgspec.UNSET
_Misplaced = Any


class NativeEvent(msgspec.Struct, forbid_unknown_fields=True):
    """A usage event in our own JSON. The organisation is the API key's; an event cannot name another."""

    event_id: str
    occurred_at: str
    """RFC 3339 with a zone."""
    customer_id: str
    meter: str | None = None
    event_type: str | None = None
    quantity: msgspec.Raw = _ONE
    """A JSON number or a string; kept as text so that it stays exact."""
    status: str = Status.SUCCEEDED
    feature: str | None = None
    model: str | None = None
    tags: tuple[str, ...] = ()
    properties: dict[str, str] = {}
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class CloudData(msgspec.Struct, forbid_unknown_fields=True):
    """A CloudEvent's `data`: a native event without what the envelope's attributes say."""

    customer_id: str | None = None
    """None: `subject` is the customer."""
    meter: str | None = None
    """None: the catalog maps `type` to meters."""
    quantity: msgspec.Raw = _ONE
    status: str = Status.SUCCEEDED
    feature: str | None = None
    model: str | None = None
    tags: tuple[str, ...] = ()
    properties: dict[str, str] = {}
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class CloudEvent(msgspec.Struct):
    """A CloudEvent 1.0 in structured mode. Extension attributes are let through and not kept.

    The usage fields are declared so that one which stands beside `data` is seen, and not dropped as an extension.
    """

    specversion: str
    id: str
    source: str
    type: str
    time: str
    subject: str | None = None
    datacontenttype: str | None = None
    dataschema: str | None = None
    data: CloudData | None = None
    data_base64: _Misplaced = _NOT_GIVEN
    event_id: _Misplaced = _NOT_GIVEN
    occurred_at: _Misplaced = _NOT_GIVEN
    customer_id: _Misplaced = _NOT_GIVEN
    event_type: _Misplaced = _NOT_GIVEN
    meter: _Misplaced = _NOT_GIVEN
    quantity: _Misplaced = _NOT_GIVEN
    status: _Misplaced = _NOT_GIVEN
    feature: _Misplaced = _NOT_GIVEN
    model: _Misplaced = _NOT_GIVEN
    tags: _Misplaced = _NOT_GIVEN
    properties: _Misplaced = _NOT_GIVEN
    input_tokens: _Misplaced = _NOT_GIVEN
    output_tokens: _Misplaced = _NOT_GIVEN
    cached_tokens: _Misplaced = _NOT_GIVEN
    reasoning_tokens: _Misplaced = _NOT_GIVEN


_ALL: Final = CloudEvent.__struct_fields__
_MISPLACED: Final = _ALL[_ALL.index("data_base64") :]


def misplaced_fields(event: CloudEvent) -> tuple[str, ...]:
    """The fields that stand beside `data` and do not belong there."""
    return tuple(name for name in _MISPLACED if getattr(event, name) is not _NOT_GIVEN)

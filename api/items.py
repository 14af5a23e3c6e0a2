"""Takes a request's body apart into events, each still to be read by itself: one bad item never refuses the others."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple
from urllib.parse import unquote

import msgspec

from api.errors import BadRequest, TooLarge, UnsupportedMediaType
from billing.records import UsageEvent
from schemas import lenient_json, mapping
from schemas.avro_container import CONTAINER_MAGIC, read_container
from schemas.json_fields import Undecodable, why_no_json
from schemas.wire import CloudEvent, NativeEvent

__all__ = ["AVRO", "CLOUD_EVENT", "CLOUD_EVENTS", "EVENTS_MAX", "JSON", "Batch", "split"]

EVENTS_MAX: Final = 10_000
JSON: Final = "application/json"
CLOUD_EVENT: Final = "application/cloudevents+json"
CLOUD_EVENTS: Final = "application/cloudevents-batch+json"
AVRO: Final = "application/vnd.meterlog.events+avro"
_AVRO_KINDS: Final = (AVRO, "application/avro")

# Ten million bytes of `0,` would become five million objects of 60 bytes. 10 MiB of real events hold far fewer values.
_COMMAS_MAX: Final = 2_000_000
_NO_JSON: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Batch(NamedTuple):
    """`read` makes an item an event (raises InvalidField, Undecodable); `id_of` finds the id of one that is none."""

    items: Sequence[Any]
    read: Callable[[Any], UsageEvent]
    id_of: Callable[[Any], str | None]


def split(body: bytes, headers: Mapping[str, str]) -> Batch:
    """The body's events by its Content-Type.

    Raises UnsupportedMediaType; BadRequest for a body that is not of its type, or holds no event; TooLarge for more
    than EVENTS_MAX.
    """
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    batch = _split(kind, body, headers)
    if not batch.items:
        raise BadRequest("the batch is empty; send at least one event")
    if len(batch.items) > EVENTS_MAX:
        msg = f"the batch has more than {EVENTS_MAX} events; send them in several"
        raise TooLarge(msg)
    return batch


def _split(kind: str, body: bytes, headers: Mapping[str, str]) -> Batch:
    if kind == JSON and "ce-specversion" in headers:
        return _json(_binary_cloud_event(body, headers), _CLOUD)
    if kind == JSON:
        return _typed(body, _NATIVE)
    if kind in (CLOUD_EVENT, CLOUD_EVENTS):
        return _typed(body, _CLOUD)
    if kind in _AVRO_KINDS:
        return _avro(body)
    msg = f"Content-Type {kind[:80]!r} is not read here; send {JSON}, {CLOUD_EVENT}, {CLOUD_EVENTS} or {AVRO}"
    raise UnsupportedMediaType(msg, headers={"Accept-Post": ", ".join((JSON, CLOUD_EVENT, CLOUD_EVENTS, AVRO))})


class _NativeBody(msgspec.Struct, forbid_unknown_fields=True):
    events: list[NativeEvent]


class _NativeId(msgspec.Struct):
    event_id: str


class _CloudId(msgspec.Struct):
    source: str
    id: str


_native_body = msgspec.json.Decoder(_NativeBody)
_native_list = msgspec.json.Decoder(list[NativeEvent])
_cloud_list = msgspec.json.Decoder(list[CloudEvent])
_raw_list = msgspec.json.Decoder(list[msgspec.Raw])
_raw_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_native_id = msgspec.json.Decoder(_NativeId)
_cloud_id = msgspec.json.Decoder(_CloudId)


class _Spelling(NamedTuple):
    """What differs between native events and CloudEvents. `read_raw` and `id_of_raw` take one item's JSON."""

    whole: Callable[[bytes], Batch]
    read_raw: Callable[[bytes], UsageEvent]
    id_of_raw: Callable[[bytes], str]
    wrapper: str | None


def _native_whole(body: bytes) -> Batch:
    events = _native_list.decode(body) if _begins_array(body) else _native_body.decode(body).events
    return Batch(events, mapping.from_native, _id_of_native)


def _cloud_whole(body: bytes) -> Batch:
    return Batch(_cloud_list.decode(body), mapping.from_cloud_event, _id_of_cloud)


def _id_of_native(event: NativeEvent | _NativeId) -> str:
    return event.event_id


def _id_of_cloud(event: CloudEvent | _CloudId) -> str:
    return mapping.cloud_event_id(event.source, event.id)


_NATIVE: Final = _Spelling(
    _native_whole, mapping.from_native_json, lambda raw: _id_of_native(_native_id.decode(raw)), "events"
)
_CLOUD: Final = _Spelling(
    _cloud_whole, mapping.from_cloud_event_json, lambda raw: _id_of_cloud(_cloud_id.decode(raw)), None
)


def _typed(body: bytes, spelling: _Spelling) -> Batch:
    """One decoding for the whole body, where every item has the right types; else item by item."""
    try:
        return spelling.whole(body)
    except _NO_JSON:
        return _json(body, spelling)


def _json(body: bytes, spelling: _Spelling) -> Batch:
    """The body's items, each still JSON text."""
    if body.count(b",") > _COMMAS_MAX:
        msg = f"the body has more than {EVENTS_MAX} events, or too many values in them; send smaller batches"
        raise TooLarge(msg)
    try:
        items = _opened(_raw_document(body), spelling, msgspec.Raw(body), _as_raw_list)
    except _NO_JSON as exc:
        return _lenient(body, spelling, exc)

    def id_of(raw: msgspec.Raw) -> str | None:
        try:
            return spelling.id_of_raw(bytes(raw))
        except _NO_JSON:
            return None

    return Batch(items, lambda raw: spelling.read_raw(bytes(raw)), id_of)


def _lenient(body: bytes, spelling: _Spelling, exc: Exception) -> Batch:
    """As `_json` for a body that strict JSON refuses: with luck only one item's value is at fault (NaN, mostly)."""
    try:
        document = lenient_json.load(body)
    except ValueError:
        msg = f"the body {why_no_json(body, exc)}"
        raise BadRequest(msg) from exc
    items = _opened(document, spelling, document, lambda value: value if isinstance(value, list) else None)

    def id_of(item: Any) -> str | None:
        found = item.get("event_id") if isinstance(item, dict) else None
        return found if isinstance(found, str) else None

    return Batch(items, lambda item: spelling.read_raw(lenient_json.dump(item)), id_of)


def _raw_document(body: bytes) -> list[msgspec.Raw] | dict[str, msgspec.Raw]:
    try:
        return _raw_list.decode(body) if _begins_array(body) else _raw_members.decode(body)
    except msgspec.ValidationError as exc:
        raise BadRequest("the body is neither a JSON object nor an array; send an event, or an array of them") from exc


def _opened(document: Any, spelling: _Spelling, whole: Any, as_list: Callable[[Any], Any]) -> Sequence[Any]:
    """The items of an array or of its wrapper; an object that is neither is one event."""
    if isinstance(document, list):
        return document
    if not isinstance(document, dict):
        raise BadRequest("the body is neither a JSON object nor an array; send an event, or an array of them")
    if spelling.wrapper not in document:
        return [whole]
    assert spelling.wrapper is not None, "None is no member's name"
    return _unwrapped(document, spelling.wrapper, as_list)


def _unwrapped(document: Mapping[str, Any], wrapper: str, as_list: Callable[[Any], Any]) -> list[Any]:
    if beside := [name for name in document if name != wrapper]:
        msg = f"{beside[0][:80]!r} stands beside {wrapper!r}; nothing may"
        raise BadRequest(msg, details={beside[0][:80]: "is unknown here"})
    items = as_list(document[wrapper])
    if items is None:
        msg = f"{wrapper!r} is not an array; send an array of events"
        raise BadRequest(msg, details={wrapper: "must be an array"})
    assert isinstance(items, list), "what as_list opens is a list"
    return items


def _as_raw_list(value: msgspec.Raw) -> list[msgspec.Raw] | None:
    data = bytes(value)
    return _raw_list.decode(data) if _begins_array(data) else None


def _begins_array(body: bytes) -> bool:
    return body.lstrip(b" \t\r\n")[:1] == b"["


def _binary_cloud_event(body: bytes, headers: Mapping[str, str]) -> bytes:
    """A CloudEvent in binary mode, its attributes in `ce-` headers, as one in structured mode."""
    try:
        data = msgspec.json.decode(body, type=msgspec.Raw) if body.strip() else None
    except _NO_JSON as exc:
        msg = f"the body {why_no_json(body, exc)}"
        raise BadRequest(msg) from exc
    attributes: dict[str, Any] = {
        name.removeprefix("ce-"): _unquoted(name, value) for name, value in headers.items() if name.startswith("ce-")
    }
    if data is not None:
        attributes["data"] = data
    return msgspec.json.encode(attributes)


def _unquoted(name: str, value: str) -> str:
    """A header's text. Bytes that are no UTF-8 must not become one and the same mark: two ids would be one."""
    try:
        return unquote(value, errors="strict")
    except UnicodeDecodeError as exc:
        msg = f"{name} is not UTF-8 in percent encoding"
        raise BadRequest(msg, details={name: "is not UTF-8"}) from exc


def _avro(body: bytes) -> Batch:
    """A container file of many events, or one event as it lies on the log."""
    try:
        is_file = body.startswith(CONTAINER_MAGIC)
        events = read_container(body, EVENTS_MAX) if is_file else [mapping.from_avro(body)]
    except Undecodable as exc:
        msg = f"the body {exc}" if is_file else f"the body is neither an Avro container file nor one event: {exc}"
        raise BadRequest(msg) from exc
    return Batch(events, lambda event: event, lambda event: event.event_id)

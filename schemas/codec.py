"""Avro in single-object encoding: two marker bytes, the schema's fingerprint, the body.

The `.avsc` files beside this module are the schemas, `name.version.avsc`; every version ever published stays, so that every
record ever written stays readable. A record is written with the newest version of its schema and read with its own.
"""

import io
import json
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import Any, Final, NamedTuple

import fastavro
import msgspec
from fastavro.schema import fingerprint, to_parsing_canonical_form

from billing.records import Command, Genesis, Record, Tick, Unreadable, UsageEvent
from schemas.usage_event_reader import read_usage_event

__all__ = [
    "CUT_NOTE",
    "MARKER",
    "ApiKey",
    "DeadLetter",
    "Header",
    "LetterReplayed",
    "decode",
    "decode_record",
    "encode",
    "is_command",
    "schema_files",
]

MARKER: Final = b"\xc3\x01"
CUT_NOTE: Final = "cut here: the ledger has it whole"
"""How the message of a letter ends whose record is too large to be copied into it."""
_HEADER_BYTES = len(MARKER) + 8
# The reason becomes a fact: what the decoder raised, which its next version may call otherwise, has no place in it.
_MISFIT: Final = "the body does not fit its schema"


class ApiKey(msgspec.Struct, frozen=True):
    """On `control`: a key's digest and what it may do. `revoked_at_ms` is None while it is valid."""

    key_id: str
    digest: bytes
    org: str
    scopes: tuple[str, ...]
    created_at_ms: int
    revoked_at_ms: int | None = None


class Header(msgspec.Struct, frozen=True):
    name: str
    value: bytes | None


class DeadLetter(msgspec.Struct, frozen=True):
    """On `dead-letters`: a refused record as it was, with the reason."""

    incarnation: int
    partition: int
    offset: int
    reason: str
    message: str
    append_ms: int
    key: bytes | None
    value: bytes | None
    field: str | None = None
    headers: tuple[Header, ...] = ()

    @property
    def is_cut(self) -> bool:
        """Whether it holds only the beginning of key and value, and no headers."""
        return self.message.endswith(CUT_NOTE)


class LetterReplayed(msgspec.Struct, frozen=True):
    """On `dead-letters`, under a letter's key: its record was appended to `usage-events` again."""

    incarnation: int
    partition: int
    offset: int
    to_partition: int
    to_offset: int
    replayed_at_ms: int


Encodable = UsageEvent | Tick | Genesis | Command | ApiKey | DeadLetter | LetterReplayed
_NAMES: Final[dict[type[Any], str]] = {
    UsageEvent: "usage_event",
    Tick: "tick",
    Genesis: "genesis",
    Command: "command",
    ApiKey: "api_key",
    DeadLetter: "dead_letter",
    LetterReplayed: "letter_replayed",
}


class _Schema(NamedTuple):
    prefix: bytes
    """Marker and fingerprint: what a record of this schema begins with."""
    parsed: Any
    newest: Any
    """The reader's schema: None when it is this one."""
    build: Callable[[dict[str, Any]], Encodable]


def encode(record: Encodable) -> bytes:
    """The record as it lies on a topic."""
    schema = _writers()[type(record)]
    out = io.BytesIO()
    out.write(schema.prefix)
    fastavro.schemaless_writer(out, schema.parsed, msgspec.structs.asdict(record) if _flat(record) else _plain(record))
    return out.getvalue()


def decode(data: bytes | None) -> Encodable | Unreadable:
    """The record that these bytes are. Bytes that are none become Unreadable; nothing is raised."""
    if data is None:
        return Unreadable("the record has no value")
    schema = _readers().get(data[:_HEADER_BYTES])
    if schema is None:
        return Unreadable(_why_unknown(data))
    body = io.BytesIO(data)
    body.seek(_HEADER_BYTES)
    try:
        fields: dict[str, Any] = fastavro.schemaless_reader(body, schema.parsed, schema.newest)
        record = schema.build(fields)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - whatever the bytes make the decoder raise, they are the reason
        return Unreadable(_MISFIT)
    if body.tell() != len(data):
        return Unreadable(f"{len(data) - body.tell()} bytes follow the record")
    return record


def decode_record(data: bytes | None) -> Record:
    """As `decode`, for `usage-events`: kinds that do not belong there are unreadable too."""
    if data is not None and data.startswith(_usage_event_prefix()):
        event: UsageEvent | None = None
        try:
            event = read_usage_event(data, _HEADER_BYTES)
        except MemoryError:
            raise
        except Exception:  # noqa: BLE001 - a reader for speed alone; what it trips over fastavro decides
            pass
        if event is not None:
            return event
    record = decode(data)
    if isinstance(record, (ApiKey, DeadLetter, LetterReplayed)):
        return Unreadable(f"a record of kind {_NAMES[type(record)]} does not belong on this topic")
    return record


def is_command(data: bytes) -> bool:
    """Whether these bytes, if they are a record at all, are a command: told by their first ten."""
    return data[:_HEADER_BYTES] in _command_prefixes()


def schema_files() -> dict[str, dict[int, str]]:
    """The text of each published schema, by name and version."""
    found: dict[str, dict[int, str]] = {}
    for file in (files("schemas") / "avro").iterdir():
        name, version, _ = file.name.split(".")
        found.setdefault(name, {})[int(version)] = file.read_text(encoding="utf-8")
    return {name: dict(sorted(versions.items())) for name, versions in sorted(found.items())}


_BUILDERS: Final[dict[str, Callable[[dict[str, Any]], Encodable]]] = {
    "usage_event": lambda fields: UsageEvent(**{**fields, "tags": tuple(fields["tags"])}),
    "tick": lambda fields: Tick(**fields),
    "genesis": lambda fields: Genesis(**fields),
    "command": lambda fields: Command(**fields),
    "api_key": lambda fields: ApiKey(**{**fields, "scopes": tuple(fields["scopes"])}),
    "dead_letter": lambda fields: DeadLetter(
        **{**fields, "headers": tuple(Header(**header) for header in fields["headers"])}
    ),
    "letter_replayed": lambda fields: LetterReplayed(**fields),
}


@cache
def _readers() -> dict[bytes, _Schema]:
    return {schema.prefix: schema for name in _BUILDERS for schema in _versions(name)}


@cache
def _usage_event_prefix() -> bytes:
    return _versions("usage_event")[-1].prefix


@cache
def _command_prefixes() -> frozenset[bytes]:
    return frozenset(schema.prefix for schema in _versions("command"))


@cache
def _writers() -> dict[type[Any], _Schema]:
    return {kind: _versions(name)[-1] for kind, name in _NAMES.items()}


def _versions(name: str) -> list[_Schema]:
    texts = list(schema_files()[name].values())
    newest = fastavro.parse_schema(json.loads(texts[-1]))
    schemas = []
    for text in texts:
        raw = json.loads(text)
        print_hex = fingerprint(to_parsing_canonical_form(raw), "CRC-64-AVRO")
        prefix = MARKER + bytes.fromhex(print_hex)
        reader = None if text == texts[-1] else newest
        schemas.append(_Schema(prefix, fastavro.parse_schema(raw), reader, _BUILDERS[name]))
    return schemas


def _flat(record: Encodable) -> bool:
    return not isinstance(record, DeadLetter)


def _plain(record: Encodable) -> Any:
    return msgspec.to_builtins(record, builtin_types=(bytes,))


def _why_unknown(data: bytes) -> str:
    if not data.startswith(MARKER):
        return "the value does not begin with the marker of Avro's single-object encoding (C3 01)"
    if len(data) < _HEADER_BYTES:
        return f"the value ends after {len(data)} bytes, within the schema's fingerprint"
    return f"no schema has the fingerprint {data[2:_HEADER_BYTES].hex()}"

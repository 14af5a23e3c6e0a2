"""Avro object container files of usage events: how a batch of them travels over HTTP.

Of the files that Avro allows, two kinds only are read: those whose schema is one of ours (another may ask for any amount
of memory in a few bytes), and those that are not packed inside (HTTP's own gzip is, and is bounded there).
"""

import io
import json
from collections.abc import Iterator
from functools import cache
from typing import Any, Final

import fastavro
from fastavro.schema import fingerprint, to_parsing_canonical_form

from billing.records import UsageEvent
from schemas.codec import schema_files
from schemas.json_fields import Undecodable

__all__ = ["CONTAINER_MAGIC", "read_container"]

CONTAINER_MAGIC: Final = b"Obj\x01"
_NAME: Final = "usage_event"


def read_container(data: bytes, count_max: int) -> list[UsageEvent]:
    """The events of a container file, at most `count_max` + 1 of them: one more tells that there are too many.

    Raises Undecodable, naming the event that the file stops making sense at.
    """
    file = io.BytesIO(data)
    try:
        reader = fastavro.reader(file, _newest())
        packing, schema = reader.codec, reader.writer_schema
    except MemoryError:
        raise
    except Exception as exc:
        msg = f"is not an Avro object container file ({type(exc).__name__})"
        raise Undecodable(msg) from exc
    _check_schema(schema)
    if packing != "null":
        msg = f"is an Avro file packed with {packing!r}; leave it unpacked, and send it with Content-Encoding: gzip"
        raise Undecodable(msg)
    return list(_events(reader, count_max))


def _events(reader: Any, count_max: int) -> Iterator[UsageEvent]:
    index = 0
    while index <= count_max:
        try:
            fields: dict[str, Any] = next(reader)
            fields["tags"] = tuple(fields["tags"])
            event = UsageEvent(**fields)
        except StopIteration:
            return
        except MemoryError:
            raise
        except Exception as exc:
            msg = f"stops making sense as Avro at event {index} ({type(exc).__name__})"
            raise Undecodable(msg) from exc
        yield event
        index += 1


def _check_schema(schema: Any) -> None:
    print_hex = fingerprint(to_parsing_canonical_form(schema), "CRC-64-AVRO")
    if print_hex not in _fingerprints():
        msg = f"is an Avro file of a schema with the fingerprint {print_hex}, which no version of UsageEvent has"
        raise Undecodable(msg)


@cache
def _fingerprints() -> frozenset[str]:
    texts = schema_files()[_NAME].values()
    return frozenset(fingerprint(to_parsing_canonical_form(json.loads(text)), "CRC-64-AVRO") for text in texts)


@cache
def _newest() -> Any:
    return fastavro.parse_schema(json.loads(list(schema_files()[_NAME].values())[-1]))

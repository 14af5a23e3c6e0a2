"""JSON that strict parsers refuse as a whole although a single value is at fault: NaN, Infinity, half surrogates.

Senders write these by accident (Python's `json.dumps` writes NaN). Read leniently, the value can be named, and the other
events of its batch can be taken.
"""

import json
from collections.abc import Iterator
from typing import Any

import msgspec

from billing.errors import InvalidField

__all__ = ["dump", "load"]


class _Constant(str):
    """NaN, Infinity or -Infinity: what JSON has no word for."""


def _raw(text: str) -> msgspec.Raw:
    return msgspec.Raw(text.encode())


# Numbers stay text, so that nothing is ever a float and no digit is lost.
_decode = json.JSONDecoder(parse_float=_raw, parse_int=_raw, parse_constant=_Constant).decode


def load(document: bytes) -> Any:
    """The document, its numbers as raw text. Raises ValueError where it is not even lenient JSON."""
    try:
        return _decode(document.decode())
    except RecursionError as exc:
        raise ValueError("is nested too deeply") from exc


def dump(item: Any) -> bytes:
    """A part of a loaded document as strict JSON. Raises InvalidField that names the value at fault."""
    for path, text in _texts(item, ()):
        if isinstance(text, _Constant):
            raise InvalidField(_name(path), f"{text} is not a number that can be counted; send digits")
        if not _encodes(text):
            raise InvalidField(_name(path), "holds half of a surrogate pair, which is not a character")
    return msgspec.json.encode(item)


def _texts(item: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    match item:
        case str():
            yield path, item
        case list():
            for child in item:
                yield from _texts(child, path)
        case dict():
            for name, child in item.items():
                yield path, name
                yield from _texts(child, (*path, name))


def _encodes(text: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in text)


def _name(path: tuple[str, ...]) -> str:
    """The field that the sender knows: members of a CloudEvent's `data` go by their own names."""
    names = path[1:] if path[:1] == ("data",) and len(path) > 1 else path
    return names[0] if names and _encodes(names[0]) else "event"

"""Reading JSON into typed structs so that whatever does not fit is named in the sender's words."""

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Final, TypeVar

import msgspec

from billing.errors import InvalidField
from schemas import lenient_json

__all__ = ["Undecodable", "decode_fields", "quantity_text", "why_no_json"]

T = TypeVar("T")

_NUMBER_STARTS: Final = frozenset(b"-0123456789")
_QUOTE: Final = ord('"')
# JSON's own writers fall into exponents for small and large numbers (1e-07, 1e+16): exact, so taken. Two digits of
# exponent are more than any quantity has places for, and keep what is expanded below a hundred characters.
_EXPONENT: Final = re.compile(r"-?[0-9.]+[eE][+-]?[0-9]{1,2}", re.ASCII)

_UNKNOWN: Final = re.compile(r"Object contains unknown field `(?P<name>.*?)`(?: - at `\$(?P<path>.*)`)?", re.DOTALL)
_MISSING: Final = re.compile(r"Object missing required field `(?P<name>.*?)`(?: - at `\$(?P<path>.*)`)?", re.DOTALL)
_TYPES: Final = re.compile(
    r"Expected `(?P<expected>[^`]*)`, got `(?P<got>[^`]*)`(?: - at `\$(?P<path>.*)`)?", re.DOTALL
)
_OTHER: Final = re.compile(r"(?P<what>.*?)(?: - at `\$(?P<path>.*)`)?", re.DOTALL)
_KINDS: Final = {
    "str": "a string",
    "int": "an integer",
    "float": "a number with decimals",
    "bool": "a boolean",
    "null": "null",
    "array": "an array",
    "object": "an object",
}
_FIELD_SHOWN_CHARS: Final = 80


class Undecodable(ValueError):
    """Bytes that are no usage event of their format at all; the message says where they stop making sense."""


def decode_fields(decoder: "msgspec.json.Decoder[T]", raw: bytes, hints: Mapping[str, str]) -> T:
    """`raw` as the decoder's struct. `hints` say, by field name, what to do about a field that does not fit.

    Raises InvalidField, and Undecodable for bytes that are no JSON.
    """
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as exc:
        raise _named(exc, hints) from exc
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        mended = _mended(raw, exc)
    try:
        return decoder.decode(mended)
    except msgspec.ValidationError as exc:
        raise _named(exc, hints) from exc


def why_no_json(raw: bytes, exc: Exception) -> str:
    """Where a document stops being JSON, in words."""
    match exc:
        case UnicodeDecodeError():
            return f"is not UTF-8{_bad_byte(raw)}"
        case RecursionError():
            return "is nested too deeply"
        case _ if str(exc) == "Input data was truncated":
            return f"is not complete JSON: it ends in the middle, at byte {len(raw)}"
        case _:
            return f"is not JSON: {str(exc).removeprefix('JSON is malformed: ')}"


def quantity_text(raw: msgspec.Raw) -> str:
    """A quantity as its decimal text: a string as it is, a number exactly. Raises InvalidField for anything else."""
    data = bytes(raw)
    first = data[0]
    if first == _QUOTE:
        return data[1:-1].decode() if b"\\" not in data else msgspec.json.decode(data, type=str)
    if first not in _NUMBER_STARTS:
        kind = {"t": "bool", "f": "bool", "n": "null", "[": "array", "{": "object"}[chr(first)]
        raise InvalidField("quantity", f"is {_KINDS[kind]}; a number or a decimal string is needed")
    text = data.decode()
    return _expanded(text) if "e" in text or "E" in text else text


def _expanded(text: str) -> str:
    """A number with an exponent as plain digits, its value unchanged."""
    if not _EXPONENT.fullmatch(text) or len(text) > 48:
        raise InvalidField("quantity", f"{text[:48]!r} does not fit; at most 18 whole digits and 9 decimals are taken")
    plain = f"{Decimal(text):f}"
    return plain.rstrip("0").rstrip(".") if "." in plain else plain


def _mended(raw: bytes, exc: Exception) -> bytes:
    """What strict JSON refuses as a whole: raises the InvalidField of the value at fault, if it is one value's."""
    try:
        return lenient_json.dump(lenient_json.load(raw))
    except ValueError:
        raise Undecodable(why_no_json(raw, exc)) from exc


def _bad_byte(raw: bytes) -> str:
    """The decoder's own position counts within a string, not within the document."""
    try:
        raw.decode()
    except UnicodeDecodeError as exc:
        return f" at byte {exc.start}"
    return ""


def _named(exc: msgspec.ValidationError, hints: Mapping[str, str]) -> InvalidField:
    text = str(exc)
    if match := _UNKNOWN.fullmatch(text):
        return _unknown(match["name"], hints)
    if match := _MISSING.fullmatch(text):
        return InvalidField(match["name"], "is missing")
    if match := _TYPES.fullmatch(text):
        field, place = _field_of(match["path"])
        message = f"is {_kinds(match['got'])}{place}; {_kinds(match['expected'])} is needed"
        hint = hints.get(field)
        return InvalidField(field, f"{message}: {hint}" if hint else message)
    match = _OTHER.fullmatch(text)
    assert match is not None, "every text matches"
    field, place = _field_of(match["path"])
    return InvalidField(field, f"{match['what']}{place}")


def _unknown(name: str, hints: Mapping[str, str]) -> InvalidField:
    shown = name if len(name) <= _FIELD_SHOWN_CHARS else f"{name[:_FIELD_SHOWN_CHARS]}..."
    return InvalidField(
        shown, hints.get(name, "is not a field of usage events; leave it out or put it into properties")
    )


def _field_of(path: str | None) -> tuple[str, str]:
    """The field that a decoder's path (`.data.tags[3]`) leads to, and where within it."""
    names = [name for name in (path or "").removeprefix(".data").split(".") if name]
    if not names:
        return "data" if (path or "").startswith(".data") else "event", ""
    field, bracket, rest = names[0].partition("[")
    if not bracket:
        return field, ""
    index = rest.rstrip("]")
    return field, f" at index {index}" if index.isdigit() else " in one of its values"


def _kinds(types: str) -> str:
    return " or ".join(_KINDS.get(kind.strip(), kind.strip()) for kind in types.split("|"))

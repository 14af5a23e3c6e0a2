"""Moments on the wire: RFC 3339 with a zone, and the exact microseconds that they are."""

import re
from datetime import UTC, datetime

from billing.errors import InvalidField

__all__ = ["parse_timestamp", "timestamp"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Go, Java and .NET write up to nine decimals by default. They are cut to microseconds, never rounded: rounding could
# carry an event over the end of its hour. Python's own parser takes week dates, a zone of
# +01:99 and other forms that RFC 3339 has not.
_RFC_3339 = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:(\.\d{1,6})\d{0,3})?([Zz]|[+-]\d\d:[0-5]\d)?", re.ASCII
).fullmatch
_HOW = "send RFC 3339 with a zone, such as 2026-11-21T13:20:00Z"


def parse_timestamp(field: str, text: str) -> int:
    """The moment in microseconds since the epoch; decimals beyond the sixth are cut off.

    Raises InvalidField, naming `field`, for another form, a moment without a zone, or one that no calendar has.
    """
    match = _RFC_3339(text)
    if match is None:
        raise InvalidField(field, f"{_shown(text)} is not a timestamp; {_HOW}")
    day, time, decimals, zone = match.groups()
    if zone is None:
        raise InvalidField(field, f"{_shown(text)} has no zone; {_HOW}, or with an offset, such as +01:00")
    try:
        since = datetime.fromisoformat(f"{day}T{time}{decimals or ''}{zone.upper()}") - _EPOCH
    except (ValueError, OverflowError) as exc:
        raise InvalidField(field, f"{_shown(text)} is not a moment of any day; {_HOW}") from exc
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def timestamp(at_ms: int) -> str:
    """Milliseconds since the epoch as RFC 3339 in UTC, `2026-11-21T13:20:00.000Z`."""
    moment = datetime.fromtimestamp(at_ms // 1_000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{at_ms % 1_000:03d}Z"


def _shown(text: str) -> str:
    return repr(text if len(text) <= 48 else f"{text[:45]}...")

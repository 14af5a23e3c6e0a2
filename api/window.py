"""The span of time that a query is about: whole hours in UTC, its end excluded."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final, NamedTuple

from api.errors import BadRequest
from billing.errors import InvalidField
from schemas.timestamps import parse_timestamp

__all__ = ["Window", "window_of"]

_HOUR_S: Final = 3_600
_END_S: Final = 4_102_444_800
"""The year 2100: ClickHouse's DateTime ends in 2106."""


class Window(NamedTuple):
    """From `start_s` to before `end_s`, seconds since the epoch."""

    start_s: int
    end_s: int


def window_of(parameters: Mapping[str, str], now_ms: int) -> Window:
    """`from` and `to` of a query. The current month where both are missing; `to` alone begins at its month's first.

    Raises BadRequest, naming the parameter.
    """
    start_s = _hour(parameters, "from")
    end_s = _hour(parameters, "to")
    if end_s is None:
        end_s = _next_month_s(now_ms // 1_000)
    if start_s is None:
        start_s = _month_s(end_s - 1)
    if start_s >= end_s:
        msg = "from is not before to"
        raise BadRequest(msg, details={"from": "must be before to"})
    return Window(start_s, end_s)


def _hour(parameters: Mapping[str, str], name: str) -> int | None:
    text = parameters.get(name)
    if text is None:
        return None
    try:
        at_us = parse_timestamp(name, text)
    except InvalidField as exc:
        raise _refused(name, f"{exc.message} (in a URL, + is written %2B)") from exc
    at_s, rest_us = divmod(at_us, 1_000_000)
    if rest_us or at_s % _HOUR_S:
        raise _refused(name, "is not a whole hour of UTC; usage is kept by the hour")
    if not 0 <= at_s <= _END_S:
        raise _refused(name, "lies outside the years 1970 to 2099")
    return at_s


def _refused(name: str, message: str) -> BadRequest:
    return BadRequest(f"{name}: {message}", details={name: message})


def _month_s(at_s: int) -> int:
    moment = datetime.fromtimestamp(at_s, UTC)
    return int(datetime(moment.year, moment.month, 1, tzinfo=UTC).timestamp())


def _next_month_s(at_s: int) -> int:
    moment = datetime.fromtimestamp(at_s, UTC)
    year, month = (moment.year + 1, 1) if moment.month == 12 else (moment.year, moment.month + 1)
    return int(datetime(year, month, 1, tzinfo=UTC).timestamp())

"""The span of time that a query is about: whole hours in UTC, its end excluded."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final, NamedTuple

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


def window_of(parameters: Mapping[str, str], now_ms: int, problems: dict[str, str]) -> Window:
    """`from` and `to` of a query. The current month where both are missing; `to` alone begins at its month's first.

    What is wrong is added to `problems` by parameter; then the window is of no use.
    """
    start_s = _hour(parameters, "from", problems)
    end_s = _hour(parameters, "to", problems)
    if end_s is None:
        end_s = _next_month_s(now_ms // 1_000)
    if start_s is None:
        start_s = _month_s(end_s - 1)
    if start_s >= end_s:
        problems.setdefault("from", "is not before to")
    return Window(start_s, end_s)


def _hour(parameters: Mapping[str, str], name: str, problems: dict[str, str]) -> int | None:
    if name not in parameters:
        return None
    try:
        at_s, rest_us = divmod(parse_timestamp(name, parameters[name]), 1_000_000)
    except InvalidField as exc:
        problems[name] = f"{exc.message} (in a URL, + is written %2B)"
        return None
    if rest_us or at_s % _HOUR_S:
        problems[name] = "is not a whole hour of UTC; usage is kept by the hour"
    elif not 0 < at_s <= _END_S:
        problems[name] = "lies outside the years 1970 to 2099"
    else:
        return at_s
    return None


def _month_s(at_s: int) -> int:
    moment = datetime.fromtimestamp(at_s, UTC)
    return int(datetime(moment.year, moment.month, 1, tzinfo=UTC).timestamp())


def _next_month_s(at_s: int) -> int:
    moment = datetime.fromtimestamp(at_s, UTC)
    year, month = (moment.year + 1, 1) if moment.month == 12 else (moment.year, moment.month + 1)
    return int(datetime(year, month, 1, tzinfo=UTC).timestamp())

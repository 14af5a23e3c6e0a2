"""Periods: half-open stretches of UTC time, [start, end), anchored on the calendar or on a moment.

Times are integers of seconds since the epoch; `datetime` only does the calendar's arithmetic.
"""

from calendar import monthrange
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple

__all__ = ["DAY_S", "HOUR_S", "Period", "PeriodKind", "period_at"]

HOUR_S = 3_600
DAY_S = 86_400
_WEEK_EPOCH_S = 4 * DAY_S  # 1970-01-05, the first Monday after the epoch


class PeriodKind(StrEnum):
    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    QUARTER = "quarter"
    YEAR = "year"


_FIXED_S = {PeriodKind.HOUR: HOUR_S, PeriodKind.DAY: DAY_S, PeriodKind.WEEK: 7 * DAY_S}
_MONTHS = {PeriodKind.MONTH: 1, PeriodKind.QUARTER: 3, PeriodKind.YEAR: 12}


class Period(NamedTuple):
    """One stretch of time, half-open: a moment equal to `end_s` belongs to the next one."""

    start_s: int
    end_s: int


def period_at(kind: PeriodKind, moment_s: int, anchor_s: int | None = None) -> Period:
    """The period that contains `moment_s`.

    `anchor_s` is the moment that periods are counted from (None: the calendar; weeks begin on Monday). An anchor on a
    31st falls on the last day of shorter months and comes back to the 31st.
    """
    return _period_at_hour(
        kind, moment_s - moment_s % HOUR_S, None if anchor_s is None else anchor_s // HOUR_S * HOUR_S
    )


@lru_cache(maxsize=65_536)  # boundaries are whole hours, so an hour's answer serves all of its moments
def _period_at_hour(kind: PeriodKind, hour_s: int, anchor_s: int | None) -> Period:
    if length_s := _FIXED_S.get(kind):
        base_s = anchor_s if anchor_s is not None else _WEEK_EPOCH_S if kind is PeriodKind.WEEK else 0
        start_s = base_s + (hour_s - base_s) // length_s * length_s
        return Period(start_s, start_s + length_s)
    return _months_at(_MONTHS[kind], hour_s, 0 if anchor_s is None else anchor_s)


def _months_at(months: int, hour_s: int, anchor_s: int) -> Period:
    """Counts whole steps of `months` from the anchor, so that each boundary is reckoned from the anchor's own day."""
    anchor, moment = _utc(anchor_s), _utc(hour_s)
    months_between = (moment.year - anchor.year) * 12 + moment.month - anchor.month
    step = months_between // months
    if _plus_months(anchor, step * months) > moment:
        step -= 1
    return Period(
        _epoch_s(_plus_months(anchor, step * months)),
        _epoch_s(_plus_months(anchor, (step + 1) * months)),
    )


def _plus_months(anchor: datetime, months: int) -> datetime:
    years, month0 = divmod(anchor.month - 1 + months, 12)
    year, month = anchor.year + years, month0 + 1
    return anchor.replace(year=year, month=month, day=min(anchor.day, monthrange(year, month)[1]))


def _utc(moment_s: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=moment_s)


def _epoch_s(moment: datetime) -> int:
    return int(moment.timestamp())

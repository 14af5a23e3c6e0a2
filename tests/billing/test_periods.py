"""Periods: half-open, without a hole, and walked step by step by a naive calendar."""

from __future__ import annotations

from calendar import monthrange
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.periods import DAY_S, HOUR_S, Period, PeriodKind, period_at


def at(text: str) -> int:
    """Seconds since the epoch of an ISO time in UTC."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


@pytest.mark.parametrize(
    ("kind", "moment", "start", "end"),
    [
        pytest.param(PeriodKind.HOUR, "2026-03-29T01:59:59", "2026-03-29T01:00", "2026-03-29T02:00", id="an hour"),
        pytest.param(
            PeriodKind.DAY, "2026-03-29T23:59:59", "2026-03-29", "2026-03-30", id="a day has 24 hours, always"
        ),
        pytest.param(PeriodKind.WEEK, "2026-11-22T23:59:59", "2026-11-16", "2026-11-23", id="Sunday ends its week"),
        pytest.param(PeriodKind.WEEK, "2026-11-23T00:00:00", "2026-11-23", "2026-11-30", id="Monday begins the next"),
        pytest.param(PeriodKind.WEEK, "2027-01-01T12:00:00", "2026-12-28", "2027-01-04", id="a week over New Year"),
        pytest.param(PeriodKind.MONTH, "2024-02-29T12:00:00", "2024-02-01", "2024-03-01", id="a leap February"),
        pytest.param(PeriodKind.MONTH, "2100-02-28T23:00:00", "2100-02-01", "2100-03-01", id="2100 is no leap year"),
        pytest.param(PeriodKind.MONTH, "2026-12-31T23:59:59", "2026-12-01", "2027-01-01", id="December"),
        pytest.param(PeriodKind.QUARTER, "2026-05-15T00:00:00", "2026-04-01", "2026-07-01", id="the second quarter"),
        pytest.param(PeriodKind.QUARTER, "2026-12-31T23:59:59", "2026-10-01", "2027-01-01", id="the last quarter"),
        pytest.param(PeriodKind.YEAR, "2024-02-29T00:00:00", "2024-01-01", "2025-01-01", id="a leap year"),
    ],
)
def test_calendar_periods(kind: PeriodKind, moment: str, start: str, end: str) -> None:
    assert period_at(kind, at(moment)) == Period(at(start), at(end))


@pytest.mark.parametrize(
    ("kind", "anchor", "moment", "start", "end"),
    [
        pytest.param(
            PeriodKind.MONTH, "2026-01-31", "2026-02-15", "2026-01-31", "2026-02-28", id="a 31st ends with February"
        ),
        pytest.param(
            PeriodKind.MONTH, "2026-01-31", "2026-03-01", "2026-02-28", "2026-03-31", id="and comes back to the 31st"
        ),
        pytest.param(
            PeriodKind.MONTH, "2024-01-30", "2024-02-29", "2024-02-29", "2024-03-30", id="a 30th in a leap February"
        ),
        pytest.param(
            PeriodKind.MONTH, "2026-05-15T13:00", "2026-06-15T12:59:59", "2026-05-15T13:00", "2026-06-15T13:00",
            id="the anchor's hour turns it",
        ),
        pytest.param(
            PeriodKind.MONTH, "2026-05-15T13:45", "2026-06-15T13:00", "2026-06-15T13:00", "2026-07-15T13:00",
            id="boundaries are floored to the hour",
        ),
        pytest.param(
            PeriodKind.QUARTER, "2025-11-30", "2026-03-01", "2026-02-28", "2026-05-30", id="a quarter from a 30th"
        ),
        pytest.param(
            PeriodKind.YEAR, "2024-02-29", "2025-03-01", "2025-02-28", "2026-02-28", id="a year from a leap day"
        ),
        pytest.param(
            PeriodKind.YEAR, "2024-02-29", "2028-02-29", "2028-02-29", "2029-02-28", id="and back to the leap day"
        ),
        pytest.param(
            PeriodKind.WEEK, "2026-11-18T09:00", "2026-11-25T08:59:59", "2026-11-18T09:00", "2026-11-25T09:00",
            id="a week from a Wednesday",
        ),
        pytest.param(
            PeriodKind.MONTH, "2026-03-31", "2026-03-30", "2026-02-28", "2026-03-31", id="a moment before the anchor"
        ),
    ],
)  # fmt: skip
def test_anchored_periods(kind: PeriodKind, anchor: str, moment: str, start: str, end: str) -> None:
    assert period_at(kind, at(moment), at(anchor)) == Period(at(start), at(end))


moments = st.integers(min_value=0, max_value=at("2500-01-01"))
kinds = st.sampled_from(PeriodKind)
anchors = st.none() | st.integers(min_value=at("1990-01-01"), max_value=at("2030-01-01"))


@given(kinds, moments, anchors)
def test_periods_are_half_open_and_leave_no_hole(kind: PeriodKind, moment_s: int, anchor_s: int | None) -> None:
    period = period_at(kind, moment_s, anchor_s)
    assert period.start_s <= moment_s < period.end_s
    assert period_at(kind, period.start_s, anchor_s) == period, "the start belongs to it"
    assert period_at(kind, period.end_s - 1, anchor_s) == period, "the last second belongs to it"
    assert period_at(kind, period.end_s, anchor_s).start_s == period.end_s, "the end belongs to the next"


@given(kinds, moments, anchors)
def test_boundaries_are_whole_hours(kind: PeriodKind, moment_s: int, anchor_s: int | None) -> None:
    period = period_at(kind, moment_s, anchor_s)
    assert period.start_s % HOUR_S == period.end_s % HOUR_S == 0


def boundaries(kind: PeriodKind, anchor: datetime) -> Iterator[datetime]:
    """Every boundary from the anchor on, by going from month to month, or by adding days."""
    step_days = {PeriodKind.HOUR: 1 / 24, PeriodKind.DAY: 1, PeriodKind.WEEK: 7}
    step_months = {PeriodKind.MONTH: 1, PeriodKind.QUARTER: 3, PeriodKind.YEAR: 12}
    boundary = anchor
    while True:
        yield boundary
        if kind in step_days:
            boundary += timedelta(days=step_days[kind])
            continue
        first_of_month = boundary.replace(day=1)
        for _ in range(step_months[kind]):
            first_of_month = (first_of_month + timedelta(days=31)).replace(day=1)
        last_day = monthrange(first_of_month.year, first_of_month.month)[1]
        boundary = first_of_month.replace(day=min(anchor.day, last_day))


@given(
    kinds,
    st.integers(min_value=at("2019-01-01") // HOUR_S, max_value=at("2028-12-31") // HOUR_S),
    st.integers(min_value=0, max_value=120),
    st.floats(min_value=0, max_value=1, exclude_max=True),
)
def test_a_naive_walk_finds_the_same(kind: PeriodKind, anchor_hour: int, steps: int, part: float) -> None:
    anchor = datetime.fromtimestamp(anchor_hour * HOUR_S, UTC)
    walk = boundaries(kind, anchor)
    start, end = next(walk), next(walk)
    for _ in range(steps):
        start, end = end, next(walk)
    start_s, end_s = int(start.timestamp()), int(end.timestamp())
    moment_s = start_s + int((end_s - start_s) * part)
    assert period_at(kind, moment_s, anchor_hour * HOUR_S) == Period(start_s, end_s)


def test_the_fixed_lengths() -> None:
    assert (DAY_S, HOUR_S) == (24 * 60 * 60, 60 * 60)

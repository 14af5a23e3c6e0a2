"""The demo's usage is the same each time, and lies where it can be counted: within the hour before now."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from functools import cache

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.records import Status
from runtime.demo import _now_ms
from runtime.errors import CommandError
from runtime.trace import Feed, Request, Sent, read_trace, shift_hours

HOUR_US = 3_600_000_000
NOWS = {
    "a month's first minute": "2026-12-01T00:00:30Z",
    "a month's first millisecond": "2026-12-01T00:00:00.001Z",
    "a year's first minute": "2027-01-01T00:00:59Z",
    "a month's last second": "2026-11-30T23:59:59Z",
    "the minute after a leap day": "2028-03-01T00:00:30Z",
    "in the middle of a month": "2026-11-21T13:37:00Z",
    "before the trace was taken": "2023-01-01T00:00:10Z",
}


def ms(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1_000)


@cache
def trace() -> list[Request]:
    return read_trace()


@cache
def feed(now: str) -> list[Sent]:
    return list(Feed(trace(), ms(now)))


def month(occurred_at_us: int) -> str:
    return f"{datetime.fromtimestamp(occurred_at_us / 1e6, UTC):%Y-%m}"


@pytest.mark.parametrize("now", NOWS.values(), ids=NOWS)
def test_the_last_event_lies_within_the_past_hour_and_none_ahead(now: str) -> None:
    last_us = max(sent.event.occurred_at_us for sent in feed(now))
    assert ms(now) * 1_000 - HOUR_US < last_us <= ms(now) * 1_000


@given(
    now_ms=st.integers(1_600_000_000_000, 4_000_000_000_000),
    at_us=st.integers(1_600_000_000_000_000, 1_700_000_000_000_000),
)
def test_that_holds_for_any_now(now_ms: int, at_us: int) -> None:
    shifted_us = at_us + shift_hours([Request(at_us, 0, 0)], now_ms) * HOUR_US
    assert 0 <= now_ms * 1_000 - shifted_us < HOUR_US


def test_a_trace_that_ends_now_is_not_moved() -> None:
    assert shift_hours([Request(5 * HOUR_US, 0, 0)], 5 * HOUR_US // 1_000) == 0


@pytest.mark.parametrize("now", ["2026-12-01T00:00:30Z", "2027-01-01T00:00:59Z"])
def test_at_a_months_first_minute_usage_is_of_the_month_before(now: str) -> None:
    months = Counter(month(sent.event.occurred_at_us) for sent in feed(now))
    assert set(months) <= {month(ms(now) * 1_000), month((ms(now) - 86_400_000) * 1_000)}
    assert months[month((ms(now) - 86_400_000) * 1_000)] > len(feed(now)) * 0.9


def test_every_event_is_shifted_by_the_same_whole_hours() -> None:
    now = NOWS["in the middle of a month"]
    hours = shift_hours(trace(), ms(now))
    shifted = {sent.event.event_id: sent.event.occurred_at_us for sent in feed(now)}
    assert list(shifted.values()) == [request.at_us + hours * HOUR_US for request in trace()]


def test_two_feeds_differ_by_nothing_but_the_shift() -> None:
    def unmoved(now: str) -> list[object]:
        """All but the time, in order; broken bytes tell theirs too, so only that there are some."""
        return [
            (sent.account, msgspec.structs.replace(sent.event, occurred_at_us=0), sent.value is None, sent.repeat)
            for sent in feed(now)
        ]

    assert list(Feed(trace(), ms(NOWS["in the middle of a month"]))) == feed(NOWS["in the middle of a month"])
    assert unmoved(NOWS["a month's first minute"]) == unmoved(NOWS["in the middle of a month"])


def test_a_repeat_follows_its_first_sending_and_says_the_same() -> None:
    met: dict[str, Sent] = {}
    for sent in feed(NOWS["a month's first minute"]):
        first = met.setdefault(sent.event.event_id, sent)
        assert sent._replace(repeat=False) == first
        assert sent.repeat == (first is not sent)


def test_some_are_repeated_some_failed_and_some_broken() -> None:
    sent = feed(NOWS["a month's first minute"])
    firsts = [one for one in sent if not one.repeat]
    broken = [one for one in firsts if one.value is not None]
    failed = [one for one in firsts if one.event.status is Status.FAILED]
    assert len(firsts) == len(trace())
    assert 0.025 < (len(sent) - len(firsts)) / len(firsts) < 0.035
    assert 0.003 < len(broken) / len(firsts) < 0.007
    assert 0.007 < len(failed) / len(firsts) < 0.013
    assert len({one.account for one in firsts}) == 60


@pytest.mark.parametrize(
    ("text", "complaint"), [("yesterday", "not an RFC 3339 time"), ("2026-12-01T00:00:30", "has no zone")]
)
def test_a_now_that_is_no_moment_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(CommandError, match=complaint):
        _now_ms(text)


def test_a_now_with_an_offset_is_the_moment_it_names() -> None:
    assert _now_ms("2026-12-01T02:00:30+02:00") == _now_ms("2026-12-01T00:00:30Z") == ms("2026-12-01T00:00:30Z")

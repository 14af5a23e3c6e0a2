"""When ticks are appended, and how soon one follows another."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from streams.ticker import Ticker


@dataclass
class Due:
    """A partition of which one thing is due from a moment on."""

    log_ms: int
    due_at_ms: int | None
    next_offset: int | None = 1

    def is_due(self, now_ms: int) -> bool:
        return self.due_at_ms is not None and now_ms >= self.due_at_ms


def tick(*partitions: Due, now_ms: int = 1_000) -> tuple[list[int], bool]:
    """Which partitions are given a tick, and whether the next one follows at once."""
    ticked: list[int] = []

    async def append(number: int, value: bytes) -> int:
        ticked.append(number)
        return 1

    ticker = Ticker(dict(enumerate(partitions)), append, lambda: now_ms, lambda _: False)
    busy = asyncio.run(ticker.tick_once())
    return ticked, busy


def test_only_what_is_due_is_ticked() -> None:
    assert tick(Due(1_000, None), Due(1_000, 1_000), Due(1_000, 1_001)) == ([1], True)


def test_ticks_follow_at_once_only_where_log_time_says_that_more_is_due() -> None:
    """A broker's clock that is behind makes due by the worker's clock what no tick can close yet."""
    assert tick(Due(log_ms=999, due_at_ms=1_000)) == ([0], False)
    assert tick(Due(log_ms=999, due_at_ms=1_000), Due(log_ms=1_000, due_at_ms=1_000)) == ([0, 1], True)


def test_a_tick_that_is_not_folded_yet_is_waited_for() -> None:
    partition = Due(log_ms=1_000, due_at_ms=1_000)
    appended: list[int] = []

    async def append(number: int, value: bytes) -> int:
        appended.append(number)
        return 1

    ticker = Ticker({0: partition}, append, lambda: 1_000, lambda _: False)
    asyncio.run(ticker.tick_once())
    asyncio.run(ticker.tick_once())
    assert appended == [0]
    partition.next_offset = 2
    asyncio.run(ticker.tick_once())
    assert appended == [0, 0]

"""Appends ticks: a partition's owner says that time has passed, once a second while something is due.

And once behind each transaction that ends a partition: its marker is an offset without a record, so the position stays
before it. Were retention to take it so (a partition that has its genesis alone), the position would lie before the log's
start, as it does when records were lost, and no worker would take the partition again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from billing.records import Tick
from schemas.codec import encode

__all__ = ["DuePartition", "Ticker"]

_INTERVAL_S = 1.0
_BACKLOG_INTERVAL_S = 0.05
"""Between ticks of a backlog, of which each closes hundreds of rows: the events behind them must have their turn."""


class DuePartition(Protocol):
    """What the ticker asks of a partition's fold."""

    @property
    def next_offset(self) -> int | None: ...

    @property
    def log_ms(self) -> int: ...

    def is_due(self, now_ms: int) -> bool: ...


class Ticker:
    """Ticks for the owned partitions. More of them than needed do no harm; fewer only delay what is due."""

    def __init__(
        self,
        partitions: Mapping[int, DuePartition],
        append: Callable[[int, bytes], Awaitable[int]],
        now_ms: Callable[[], int],
        needs_tick: Callable[[int], bool],
    ) -> None:
        """`append(partition, value)` puts a record on the log and gives its offset.

        `needs_tick(partition)`: nothing waits to be folded, and a commit is needed all the same.
        """
        self._partitions = partitions
        self._append = append
        self._now_ms = now_ms
        self._needs_tick = needs_tick
        self._last_tick: dict[int, int] = {}

    async def run(self) -> None:
        """Tick until cancelled."""
        while True:
            busy = await self.tick_once()
            await asyncio.sleep(_BACKLOG_INTERVAL_S if busy else _INTERVAL_S)

    async def tick_once(self) -> bool:
        """Append a tick to each partition that wants one and whose last tick was folded; whether any has a backlog.

        A backlog is what is due by the log's time. What is due by this worker's clock alone, no tick can close: with a broker
        whose clock is an hour behind, ticks without a pause would be 72,000 a partition, each in the ledger for ever.
        """
        now_ms = self._now_ms()
        due = [number for number, fold in list(self._partitions.items()) if self._wants_tick(number, fold, now_ms)]
        has_backlog = any(fold.is_due(fold.log_ms) for fold in map(self._partitions.__getitem__, due))
        for number in due:
            self._last_tick[number] = await self._append(number, encode(Tick(now_ms)))
        return has_backlog

    def _wants_tick(self, number: int, fold: DuePartition, now_ms: int) -> bool:
        if fold.next_offset is None or self._last_tick.get(number, -1) >= fold.next_offset:
            return False
        return self._needs_tick(number) or fold.is_due(now_ms)

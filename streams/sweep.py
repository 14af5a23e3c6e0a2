"""Deletes expired rows from the worker's own disk: nothing is written for it while they live, and nothing to any log.

A decision goes by log time, whether or not a row is still stored; so a table that was swept, one that was not and one
that came back from its changelog with rows long expired decide alike. What is swept is found by looking through the
whole table, once a day of log time: an index by time would cost a write for every event.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, Protocol

from streams.port import TABLES, Expiry, Row
from streams.tables import Swept

__all__ = ["Sweeper", "SweptTable", "sweep_until_cancelled"]

_DAY_MS: Final = 86_400_000
_ROWS_PER_STEP: Final = 2_000  # 3 ms, during which nothing else runs on the loop
_PAUSE_S: Final = 0.05  # between two steps: 6 % of the loop while a pass lasts, 25 s for a million rows
_IDLE_S: Final = 60.0


class SweptTable(Protocol):
    """What sweeping asks of a partition's table."""

    def get_many(self, keys: Sequence[bytes]) -> list[Row]: ...

    def scan(self, start: bytes, stop: bytes, limit: int) -> list[tuple[bytes, bytes]]: ...

    @property
    def swept(self) -> Swept | None: ...

    def sweep(self, keys: Iterable[bytes], swept: Swept) -> None: ...


class Sweeper:
    """Sweeps one owned partition."""

    def __init__(self, expiry: Expiry, tables: Mapping[str, SweptTable], rows_per_step: int = _ROWS_PER_STEP) -> None:
        """`tables` hold what is committed, not what an open epoch has changed."""
        self._expiry = expiry
        self._tables = tables
        self._rows_per_step = rows_per_step

    def step(self) -> bool:
        """Look through the next rows; whether this pass has more.

        It goes by the committed position's log time: every decision still to come, a successor's after a crash
        included, is made at that time or later. To be called on the loop that writes epochs: a row that was read
        here as expired, and accepted again since, is written after this step has deleted the old one.
        """
        (position,) = self._tables[TABLES[0]].get_many([self._expiry.position_key])
        if position is None:
            return False
        log_ms = self._expiry.log_ms(position)
        table = self._tables[self._expiry.table]
        swept = _pass_to_continue(table.swept, log_ms)
        if swept is None:
            return False
        rows = table.scan(swept.next_key or self._expiry.start, self._expiry.stop, self._rows_per_step)
        expired = [key for key, value in rows if self._expiry.expires_at_ms(value) <= log_ms]
        has_more = len(rows) == self._rows_per_step
        table.sweep(expired, Swept(swept.log_ms, rows[-1][0] + b"\x00" if has_more else b""))
        return has_more


def _pass_to_continue(swept: Swept | None, log_ms: int) -> Swept | None:
    """The pass under way, or a new one on a new day of log time; None: today's is done."""
    if swept is None or (not swept.next_key and log_ms // _DAY_MS > swept.log_ms // _DAY_MS):
        return Swept(log_ms, b"")
    return swept if swept.next_key else None


async def sweep_until_cancelled(sweepers: Callable[[], Iterable[Sweeper]]) -> None:
    """Sweep in steps between the epochs. `sweepers` is asked for each when its turn comes: partitions come and go."""
    while True:
        has_more = False
        for sweeper in sweepers():
            has_more = sweeper.step() or has_more
            await asyncio.sleep(0)
        await asyncio.sleep(_PAUSE_S if has_more else _IDLE_S)

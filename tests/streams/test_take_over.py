"""A take-over ends by itself or is abandoned; whatever else stops it ends the worker, which would own and never fold."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from streams import recovery
from streams.recovery import FoldRecovery


class Ended(BaseException):
    """The process is over."""


@pytest.fixture(autouse=True)
def _ends_by_raising(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop_process(doing: str) -> None:
        raise Ended(doing)

    monkeypatch.setattr(recovery, "stop_process", stop_process)


async def cancelled_take_over(*, is_abandoned: bool) -> None:
    """Cancelled in the middle, as `abandon` does it, or by somebody else."""
    holder: Any = SimpleNamespace(_taking=None)
    began = asyncio.Event()

    async def take_over() -> None:
        began.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(FoldRecovery._to_the_end(holder, take_over()))
    holder._taking = task
    await began.wait()
    if is_abandoned:
        holder._taking = None
    task.cancel()
    await task


def test_one_that_is_cancelled_by_somebody_else_ends_the_worker() -> None:
    with pytest.raises(Ended, match="nobody abandoned"):
        asyncio.run(cancelled_take_over(is_abandoned=False))


def test_one_that_is_abandoned_does_not() -> None:
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancelled_take_over(is_abandoned=True))

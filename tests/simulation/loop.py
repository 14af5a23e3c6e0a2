"""An event loop whose time is a number: it jumps to the next timer when nothing is ready, and never waits."""

from __future__ import annotations

import asyncio
from typing import Any

__all__ = ["NothingLeft", "VirtualLoop"]


class NothingLeft(Exception):
    """Every task waits for something that no timer will bring: the simulated world stands still for ever."""


class _NoFiles:
    """Stands where a loop asks the operating system what is ready; passes the time instead."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def select(self, timeout_s: float | None) -> list[Any]:
        if timeout_s is None:
            message = "no task can go on, and no timer runs"
            raise NothingLeft(message)
        self._loop.now_s += timeout_s
        return []


class VirtualLoop(asyncio.BaseEventLoop):
    """Deterministic: what runs next follows from what was scheduled, and from nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self._selector = _NoFiles(self)
        self._clock_resolution = 1e-6
        self.set_exception_handler(lambda loop, context: None)  # tasks of killed workers end with nobody to ask

    def time(self) -> float:
        """Overrides BaseEventLoop: seconds since the beginning of the world."""
        return self.now_s

    def _process_events(self, events: list[Any]) -> None:
        """Overrides BaseEventLoop: there are no files."""

    def _write_to_self(self) -> None:
        """Overrides BaseEventLoop: nobody sleeps, so nobody is woken."""

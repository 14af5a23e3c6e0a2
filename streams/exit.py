"""The one way out when something does not add up: at once, before anything can be committed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Final, NoReturn, TypeVar

from observe.log import LogLine
from observe.streams import StreamsEvent

__all__ = ["EXIT_SURPRISE", "ending", "ends_process", "say", "stop_process"]

EXIT_SURPRISE = 70  # EX_SOFTWARE: the supervisor restarts the worker, which goes on from the position row

T = TypeVar("T")

_log = logging.getLogger("meterlog.streams")


def say(event: StreamsEvent, level: int = logging.INFO, **fields: object) -> None:
    """Log one event."""
    _log.log(level, LogLine(event, fields))


def _end_process(doing: str, error: BaseException | None) -> NoReturn:
    """End the process with code 70.

    `os._exit` runs no handler and no `finally`: those could commit, and one that hangs would keep a worker alive
    that still holds its partitions.
    """
    reason = f"{type(error).__name__}: {error}" if error is not None else doing
    _log.critical(LogLine(StreamsEvent.SURPRISED, {"doing": doing, "reason": reason}), exc_info=error)
    for handler in logging.getLogger().handlers:
        with contextlib.suppress(Exception):  # a log that cannot be flushed must not keep this process alive
            handler.flush()
    os._exit(EXIT_SURPRISE)


ending: Final[ContextVar[Callable[[str, BaseException | None], NoReturn]]] = ContextVar("ending", default=_end_process)
"""How the worker that the current task belongs to ends. Of the simulator's workers, which share a process, each takes
only itself away (`tests/simulation/`)."""


def stop_process(doing: str, error: BaseException | None = None) -> NoReturn:
    """End the process; what is not committed is folded again by the successor."""
    ending.get()(doing, error)


async def ends_process(work: Awaitable[T], doing: str) -> T:
    """Await `work`; whatever it raises ends the process. Faust and aiokafka would log it, and go on."""
    try:
        return await work
    except asyncio.CancelledError:
        raise
    except BaseException as error:  # noqa: BLE001  any surprise means that this worker must not commit
        stop_process(doing, error)

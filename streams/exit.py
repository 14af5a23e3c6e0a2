"""The one way out when something does not add up: at once, before anything can be committed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Awaitable
from typing import NoReturn, TypeVar

from observe.log import LogLine
from observe.streams import StreamsEvent

__all__ = ["EXIT_SURPRISE", "ends_process", "say", "stop_process"]

EXIT_SURPRISE = 70  # EX_SOFTWARE: the supervisor restarts the worker, which goes on from the position row

T = TypeVar("T")

_log = logging.getLogger("meterlog.streams")


def say(event: StreamsEvent, level: int = logging.INFO, **fields: object) -> None:
    """Log one event."""
    _log.log(level, LogLine(event, fields))


def stop_process(doing: str, error: BaseException | None = None) -> NoReturn:
    """End the process with code 70; what is not committed is folded again by the successor.

    `os._exit` runs no handler and no `finally`: those could commit, and one that hangs would keep a worker alive
    that still holds its partitions.
    """
    reason = f"{type(error).__name__}: {error}" if error is not None else doing
    _log.critical(LogLine(StreamsEvent.SURPRISED, {"doing": doing, "reason": reason}), exc_info=error)
    for handler in logging.getLogger().handlers:
        with contextlib.suppress(Exception):  # a log that cannot be flushed must not keep this process alive
            handler.flush()
    os._exit(EXIT_SURPRISE)


async def ends_process(work: Awaitable[T], doing: str) -> T:
    """Await `work`; whatever it raises ends the process. Faust and aiokafka would log it, and go on."""
    try:
        return await work
    except asyncio.CancelledError:
        raise
    except BaseException as error:  # noqa: BLE001  any surprise means that this worker must not commit
        stop_process(doing, error)

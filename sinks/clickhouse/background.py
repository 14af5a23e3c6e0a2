"""Work in a thread that never keeps the process alive: a request that hangs must not hold up its end."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

__all__ = ["in_background", "is_done"]

T = TypeVar("T")


def in_background(action: Callable[[], T], *, name: str) -> Future[T]:
    """Start `action` in a daemon thread."""
    future: Future[T] = Future()
    threading.Thread(target=_run, args=(action, future), name=name, daemon=True).start()
    return future


def is_done(future: Future[T], timeout_s: float) -> bool:
    """Whether it has ended, now or within `timeout_s`. Raises what it raised."""
    if not wait([future], timeout_s).done:
        return False
    future.result()
    return True


def _run(action: Callable[[], T], future: Future[T]) -> None:
    try:
        future.set_result(action())
    except BaseException as exc:  # noqa: BLE001  whoever waits for it raises it
        future.set_exception(exc)

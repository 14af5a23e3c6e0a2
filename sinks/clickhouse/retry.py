"""Trying again: a server that is away delays the sink, and never makes it give up or forget."""

import logging
import threading
from collections.abc import Callable
from typing import Final, TypeVar

from observe.clickhouse_sink import ClickHouseSinkEvent
from sinks.clickhouse.errors import Interrupted, Unavailable
from sinks.clickhouse.log import say
from sinks.clickhouse.watch import answers, does_not_answer

__all__ = ["until_done"]

T = TypeVar("T")

_SERVERS: Final[dict[str, str]] = {
    "sink.clickhouse.clickhouse_unavailable": "clickhouse",
    "sink.clickhouse.kafka_unavailable": "kafka",
}
"""Who is away, by what is said of it."""
_FIRST_WAIT_S: Final = 0.1
_WAIT_S_MAX: Final = 5.0
"""What a server that is back waits for the sink at most; well within the 2 s only while outages are short."""


def until_done(action: Callable[[], T], *, doing: str, event: ClickHouseSinkEvent, stop: threading.Event) -> T:
    """What `action` returns, once it does not raise Unavailable. Each try may have taken effect: it must be repeatable.

    Raises Interrupted when `stop` is set while it waits, and whatever else `action` raises.
    """
    attempt = 0
    while True:
        try:
            result = action()
        except Unavailable as exc:
            attempt += 1
            wait_s = min(_FIRST_WAIT_S * 2 ** min(attempt - 1, 10), _WAIT_S_MAX)
            does_not_answer(_SERVERS[event], f"{doing}: {exc}")
            say(event, logging.WARNING, doing=doing, error=str(exc), attempt=attempt, retry_in_s=wait_s)
            if stop.wait(wait_s):
                message = f"asked to stop while {doing} was tried again"
                raise Interrupted(message) from exc
        else:
            answers(_SERVERS[event])
            if attempt:
                say("sink.clickhouse.recovered", doing=doing, attempts=attempt + 1)
            return result

"""The forwarder's process: opens the ports over Kafka, and steps until it is stopped."""

import logging
import threading
import time
from typing import Final

from observe.forwarder import ForwarderEvent
from sinks.forward.errors import EXIT_BROKEN, EXIT_MISCONFIGURED, Broken, Misconfigured
from sinks.forward.forwarder import Forwarder, Gap, no_gap
from sinks.forward.kafka import KafkaFoldProgress, KafkaHistory, KafkaLog, check_topics
from sinks.forward.log import say
from sinks.forward.port import Unavailable
from sinks.forward.settings import ForwarderSettings

__all__ = ["run"]

_TRY_AGAIN_S: Final = 1.0
_FINISH_S: Final = 2.0
"""For what is under way, when asked to stop; the next life repeats the rest."""
_END_S_MAX: Final = 4.0
"""From being asked to stop to the end of the process, which supervisors expect within 5 s."""


def run(settings: ForwarderSettings, stop: threading.Event, gap: Gap = no_gap) -> int:
    """Run until `stop` is set: the exit code. 0 then; EXIT_MISCONFIGURED and EXIT_BROKEN say themselves in the log.

    A Kafka that is away is waited for. However it ends, the next process goes on from what the group has noted.
    """
    try:
        partitions = _check_until_answered(settings, stop)
        if partitions is not None:
            _forward(settings, partitions, stop, gap)
    except Misconfigured as exc:
        say(ForwarderEvent.FAILED, logging.CRITICAL, kind=type(exc).__name__, error=str(exc))
        return EXIT_MISCONFIGURED
    except Broken as exc:
        say(ForwarderEvent.FAILED, logging.CRITICAL, kind=type(exc).__name__, error=str(exc))
        return EXIT_BROKEN
    return 0


def _check_until_answered(settings: ForwarderSettings, stop: threading.Event) -> int | None:
    """The partition count; None: stopped before Kafka answered."""
    while not stop.is_set():
        try:
            return check_topics(settings)
        except Unavailable as exc:
            say(ForwarderEvent.KAFKA_UNAVAILABLE, logging.WARNING, error=str(exc))
            stop.wait(_TRY_AGAIN_S)
    return None


def _forward(settings: ForwarderSettings, partitions: int, stop: threading.Event, gap: Gap) -> None:
    fold = KafkaFoldProgress(settings)
    window, wait_s_target, rate = settings.window, settings.wait_s_target, settings.rate_max_per_s
    history, log = KafkaHistory(settings), KafkaLog(settings)
    forwarder = Forwarder(history, log, fold, window, wait_s_target, rate, time.monotonic, gap)
    say(ForwarderEvent.STARTED, partitions=partitions, window=window, rate_max_per_s=rate)
    forwarder.open()
    while not stop.is_set():
        forwarder.step()
    # A broker that is away must not hold up the end: a commit would wait for it, and what is not noted is repeated anyway.
    closing = threading.Thread(target=_close, args=(forwarder, fold), name="close", daemon=True)
    closing.start()
    closing.join(_END_S_MAX)
    say(ForwarderEvent.STOPPED, forwarded=forwarder.forwarded_count)


def _close(forwarder: Forwarder, fold: KafkaFoldProgress) -> None:
    forwarder.close(_FINISH_S)
    fold.close()

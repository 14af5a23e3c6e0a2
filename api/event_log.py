"""Appends events to the log, and answers when the brokers have them."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from api.errors import Busy, LogUnavailable
from api.say import say
from observe.api import ApiEvent
from observe.figures import FIGURES
from observe.health import HEALTH
from observe.metrics import API_ACK_S, API_NOT_ACKNOWLEDGED

__all__ = ["EventLog", "Keyed"]

_BUSY_INTERVAL_S = 0.001
_IDLE_INTERVAL_S = 0.5  # errors of the library are told, and do not pile up, while nothing is sent
_COMPLAINT_INTERVAL_S = 10.0  # a broker that is away is complained about at every try to reach it
_LINGER_MS = 2
_REFUSED_S = 60.0  # no batch since then may just mean that nobody sends any
_GRACE_S = 2.0  # the client library gives up on a message by itself; this is for the one that it forgets
_QUEUE_KB_MAX = 256 * 1024


class Keyed(NamedTuple):
    key: bytes
    value: bytes


class EventLog:
    """One idempotent producer, driven by the event loop it is made in.

    Reports of delivery are served by the loop itself, every millisecond while anything is in flight. A thread that
    serves them would need the interpreter once an event, and wait up to 5 ms for it each time.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        topic: str,
        *,
        in_flight_max: int,
        ack_timeout_s: float,
        on_fatal: Callable[[str], None],
    ) -> None:
        """`in_flight_max`: events handed over and not yet acknowledged. `on_fatal` must end the process."""
        self._topic = topic
        self._in_flight_max = in_flight_max
        self._ack_timeout_s = ack_timeout_s
        self._on_fatal = on_fatal
        self._in_flight = 0
        self._refused: tuple[str, float] | None = None
        self._pump: asyncio.TimerHandle | None = None
        self._complained_s = -_COMPLAINT_INTERVAL_S
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap_servers,
                "client.id": "meterlog-api",
                "enable.idempotence": True,  # acks=all, in order, the library's own resends never doubled
                "partitioner": "murmur2_random",  # Kafka's own rule; the library's default would misroute every event
                "linger.ms": _LINGER_MS,
                "reconnect.backoff.max.ms": 1_000,  # its 10 s would keep a node red long after the broker is back
                "compression.type": "lz4",  # 26 bytes an event on the log instead of 119, for less CPU than sending those
                "message.timeout.ms": int(ack_timeout_s * 1_000),
                "queue.buffering.max.messages": in_flight_max,
                "queue.buffering.max.kbytes": _QUEUE_KB_MAX,
                "log_level": 0,  # what matters comes to error_cb
                "error_cb": self._complain,
            }
        )

    def start(self) -> None:
        """Begin to serve the library's reports, in the running event loop."""
        self._serve()

    async def append(self, records: Sequence[Keyed]) -> None:
        """Return when every record is acknowledged by all in-sync replicas.

        Raises Busy, before anything is handed over, when too much is in flight; LogUnavailable when any record was not
        acknowledged in time: then some of them may be on the log, and the whole batch must be sent again.
        """
        if self._in_flight + len(records) > self._in_flight_max:
            say(ApiEvent.BUSY, level=logging.WARNING, what="events in flight", limit=self._in_flight_max)
            msg = f"{self._in_flight_max} events are waiting for Kafka's acknowledgement; send the batch again"
            raise Busy(msg)
        if not records:
            return
        batch = _Batch(self, len(records), asyncio.get_running_loop().create_future())
        began_s = time.monotonic()
        self._hand_over(records, batch)
        try:
            reason = await asyncio.wait_for(batch.done, self._ack_timeout_s + _GRACE_S)
        except TimeoutError:
            reason = "no answer in time"
        FIGURES.observe(API_ACK_S, time.monotonic() - began_s)
        self._refused = None if reason is None else (reason, time.monotonic())
        if reason is not None:
            FIGURES.add(API_NOT_ACKNOWLEDGED)
            say(ApiEvent.NOT_ACKNOWLEDGED, level=logging.ERROR, reason=reason, event_count=len(records))
            raise LogUnavailable("Kafka did not acknowledge the batch; send it again, the ids make that safe")

    @property
    def in_flight(self) -> int:
        """Events handed over and not yet acknowledged."""
        return self._in_flight

    def refused(self) -> str | None:
        """Why the last batch was not acknowledged; None where it was, or when that was long ago."""
        refused = self._refused
        is_recent = refused is not None and time.monotonic() - refused[1] < _REFUSED_S
        return refused[0] if refused is not None and is_recent else None

    def close(self) -> None:
        """Let go of the producer. Requests must have ended: what is in flight is not waited for."""
        if self._pump is not None:
            self._pump.cancel()
        self._producer.flush(0)

    def settle(self) -> None:
        """A record's fate is known."""
        self._in_flight -= 1

    def _hand_over(self, records: Sequence[Keyed], batch: "_Batch") -> None:
        produce, topic, report = self._producer.produce, self._topic, batch.report
        handed = 0
        try:
            for key, value in records:
                produce(topic, value, key, -1, report)
                handed += 1
        except (BufferError, KafkaException) as exc:
            batch.cut(len(records) - handed, str(exc))
        self._in_flight += handed
        self._serve()

    def _serve(self) -> None:
        if self._pump is not None:
            self._pump.cancel()
        self._producer.poll(0)
        HEALTH.turned()
        interval_s = _BUSY_INTERVAL_S if self._in_flight else _IDLE_INTERVAL_S
        self._pump = asyncio.get_running_loop().call_later(interval_s, self._serve)

    def _complain(self, error: KafkaError) -> None:
        now_s = time.monotonic()
        if now_s - self._complained_s >= _COMPLAINT_INTERVAL_S:
            self._complained_s = now_s
            say(ApiEvent.KAFKA_COMPLAINED, level=logging.ERROR, reason=error.str())
        if error.fatal():
            self._on_fatal(f"Kafka's producer cannot go on: {error.str()}")


class _Batch:
    """What is still awaited of one append. `done` gets None, or why the batch must be sent again."""

    __slots__ = ("_left", "_log", "_reason", "done")

    def __init__(self, log: EventLog, count: int, done: "asyncio.Future[str | None]") -> None:
        self._log = log
        self._left = count
        self._reason: str | None = None
        self.done = done

    def report(self, error: KafkaError | None, _message: Message) -> None:
        """Called once for each record that was handed over."""
        if error is not None:
            self._reason = error.str()
        self._log.settle()
        self._left -= 1
        if not self._left:
            self._finish()

    def cut(self, count: int, reason: str) -> None:
        """`count` records were never handed over."""
        self._reason = reason
        self._left -= count
        if not self._left:
            self._finish()

    def _finish(self) -> None:
        if not self.done.done():
            self.done.set_result(self._reason)

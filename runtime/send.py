"""`meterlog events send`: a file's usage events straight to Kafka, each line that is none named with its field."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Final, NamedTuple

import typer
from confluent_kafka import KafkaError, KafkaException, Message, Producer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

from billing.accounts.types import check_org
from billing.errors import InvalidField
from billing.facts import Reason
from billing.metering.rules import check_fields, check_time
from billing.records import UsageEvent
from runtime.errors import CommandError
from runtime.event_files import BadLine, EventFile, open_events
from schemas.topics import USAGE_BACKFILL, USAGE_EVENTS
from schemas.usage_event_avro import encode_usage_event

__all__ = ["BACKFILL", "LIVE", "Sent", "Way", "print_sent", "send_file"]

_QUEUE_MAX: Final = 100_000
_DELIVERY_TIMEOUT_S: Final = 30.0
_METADATA_TIMEOUT_S: Final = 5.0
_POLL_EVERY: Final = 1_000
_COMPLAINTS_MAX: Final = 1_000
"""Lines that are named; of a file in which every line is wrong, the rest is only counted."""


class Way(NamedTuple):
    """Which way a file takes."""

    topic: str
    refusal: Callable[[UsageEvent, int], BadLine | None]
    """Why an event may not go this way, at a time in ms."""
    encode: Callable[[str, UsageEvent], bytes]
    """The record's value, for an account's event."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of a file's lines."""

    acknowledged: int
    """On the log, or in the backfill lane: the fold will count each, or list it with a reason."""
    refused: int
    """Never sent, for what stderr says."""
    failed: int
    """Not acknowledged by Kafka; whether they are on the log is not known. Send the file again: the ids make it safe."""

    @property
    def complete(self) -> bool:
        """Whether every line is on the log."""
        return not (self.refused or self.failed)


def send_file(
    path: str,
    org: str,
    bootstrap_servers: str,
    now_ms: Callable[[], int],
    console: Console,
    *,
    file_format: str | None = None,
    way: Way | None = None,
) -> Sent:
    """Send every event of the file (`-`: stdin) for `org`; lines that are none are named on `console`.

    It resumes nothing: run again, it sends all again, and the fold drops what it knows. Raises CommandError for a file
    that cannot be read, a wrong header or organisation, a topic that is missing.
    """
    try:
        check_org(org)
    except InvalidField as exc:
        message = f"--org: {exc.message}"
        raise CommandError(message) from exc
    with open_events(path, file_format) as file, _progress(console) as progress:
        return _Sending(org, bootstrap_servers, now_ms, progress, way or LIVE).send(file)


def print_sent(sent: Sent, *, as_json: bool) -> None:
    """The summary: a sentence, or JSON for scripts."""
    if as_json:
        Console(soft_wrap=True).print_json(data=asdict(sent))
        return
    typer.echo(f"{sent.acknowledged} acknowledged, {sent.refused} refused, {sent.failed} failed")


class _Sending:
    def __init__(
        self, org: str, bootstrap_servers: str, now_ms: Callable[[], int], progress: Progress, way: Way
    ) -> None:
        self._org = org
        self._way = way
        self._now_ms = now_ms
        self._progress = progress
        self._acknowledged = 0
        self._refused = 0
        self._failed = 0
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap_servers,
                "client.id": "meterlog-send",
                "enable.idempotence": True,
                "partitioner": "murmur2_random",  # Kafka's own rule; the library's default would misroute every event
                "linger.ms": 20,
                "queue.buffering.max.messages": _QUEUE_MAX,
                "compression.type": "lz4",  # 26 bytes an event on the log instead of 119, for less CPU than sending those
                "message.timeout.ms": int(_DELIVERY_TIMEOUT_S * 1_000),
                "log_level": 0,  # what matters comes with the deliveries
            }
        )

    def send(self, file: EventFile) -> Sent:
        """Stops at the first record that Kafka does not acknowledge: those behind it would only wait as long."""
        _check_topic(self._producer, self._way.topic)
        task = self._progress.add_task("sending", total=file.size_bytes)
        try:
            for count, (number, event) in enumerate(file.lines, start=1):
                self._take(number, event)
                if count % _POLL_EVERY == 0:
                    self._producer.poll(0)
                    self._progress.update(task, completed=file.read_bytes())
                if self._failed:
                    self._say(f"stopped after line {number}; send the file again when Kafka answers")
                    break
        finally:
            self._producer.flush(_DELIVERY_TIMEOUT_S + 5)
        self._failed += len(self._producer)  # forgotten by the library: not acknowledged either
        self._progress.update(task, completed=file.read_bytes())
        return Sent(self._acknowledged, self._refused, self._failed)

    def _take(self, number: int, event: UsageEvent | BadLine) -> None:
        bad = event if isinstance(event, BadLine) else self._way.refusal(event, self._now_ms())
        if bad is not None:
            self._refused += 1
            self._complain(f"line {number}: {f'{bad.field}: ' if bad.field else ''}{bad.message}")
            return
        assert isinstance(event, UsageEvent), "a bad line is refused above"
        account = f"{self._org}/{event.customer_id}"
        self._produce(account.encode(), self._way.encode(account, event))

    def _produce(self, key: bytes, value: bytes) -> None:
        while True:
            try:
                self._producer.produce(self._way.topic, value, key, -1, self._delivered)
            except BufferError:
                self._producer.poll(0.1)  # full: wait for acknowledgements
            else:
                return

    def _delivered(self, error: KafkaError | None, _message: Message) -> None:
        if error is None:
            self._acknowledged += 1
            return
        self._failed += 1
        if self._failed == 1:
            self._say(f"not acknowledged by Kafka: {error.str()}")

    def _complain(self, text: str) -> None:
        if self._refused <= _COMPLAINTS_MAX:
            self._say(text)
        if self._refused == _COMPLAINTS_MAX:
            self._say(f"that were {_COMPLAINTS_MAX} lines; what else is wrong is only counted")

    def _say(self, text: str) -> None:
        self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)


def _check_topic(producer: Producer, topic: str) -> None:
    """Raises CommandError where the topic is not there; a Kafka that does not answer is told by the deliveries."""
    try:
        found = producer.list_topics(topic, timeout=_METADATA_TIMEOUT_S).topics[topic]
    except KafkaException:
        return
    if found.error is not None and found.error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
        message = f"there is no topic {topic}; make it with: meterlog topics create"
        raise CommandError(message)


def _refusal(event: UsageEvent, now_ms: int) -> BadLine | None:
    """Why the fold would refuse the event: told here, its line can be named."""
    try:
        check_fields(event)
    except InvalidField as exc:
        return BadLine(exc.field, exc.message)
    refusal = check_time(event.occurred_at_us, now_ms)
    if refusal is None:
        return None
    reason, message = refusal
    hint = "; older usage goes with --late, and waits for a person's approval" if reason is Reason.TOO_OLD else ""
    return BadLine("occurred_at", message + hint)


LIVE: Final = Way(USAGE_EVENTS, _refusal, lambda _, event: encode_usage_event(event))
BACKFILL: Final = Way(USAGE_BACKFILL, _refusal, lambda _, event: encode_usage_event(event))
"""A lane of its own: the forwarder appends it to the log at the fold's pace."""


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console)

"""`meterlog backfill status`: how much of `usage-backfill` waits for the forwarder, how fast it goes, when it is done."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final, NamedTuple

import typer
from confluent_kafka import Consumer, KafkaException, TopicPartition
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from runtime.errors import BrokerError, CommandError
from schemas.topics import FORWARDER_GROUP, USAGE_BACKFILL

__all__ = ["Status", "print_status", "status_between", "status_of", "watch_status"]

_TIMEOUT_S: Final = 15.0
_BETWEEN_LOOKS_S: Final = 1.5
"""The forwarder notes its place twice a second: a shorter look would see none or one of them."""


class Look(NamedTuple):
    """One partition at one moment. Offsets, so a producer's transaction markers count as records."""

    partition: int
    start: int
    """The first that retention has left."""
    forwarded_to: int
    end: int


class Looked(NamedTuple):
    at_s: float
    lanes: tuple[Look, ...]


@dataclass(frozen=True, slots=True)
class Status:
    """What lies on `usage-backfill`."""

    waiting: int
    """Records that are not on `usage-events` yet."""
    forwarded: int
    """Records that are, of those that retention has left."""
    rate_per_s: float
    """Over the moment of looking."""
    remaining_s: float | None
    """At that rate; 0 when nothing waits, None while nothing moves."""
    partitions: tuple[dict[str, int], ...]
    """`partition`, `waiting`, `forwarded` of each."""


def status_of(bootstrap_servers: str) -> Status:
    """Two looks, a moment apart. Raises CommandError where the topic is missing or Kafka does not answer."""
    with _looking(bootstrap_servers) as look:
        first = look()
        if not _waiting(first):
            return status_between(first, first)
        time.sleep(_BETWEEN_LOOKS_S)
        return status_between(first, look())


def watch_status(bootstrap_servers: str) -> Status:
    """Look until nothing waits, with a bar on stderr; the last status. Ctrl-C ends the watching, not the backfill."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[told]}"))
    with _looking(bootstrap_servers) as look, Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("forwarding", total=None, told="")
        before, status = look(), None
        while status is None or status.waiting:
            if status is not None:
                time.sleep(_BETWEEN_LOOKS_S)
            now = look()
            status = status_between(before, now)
            before = now
            total = status.waiting + status.forwarded
            progress.update(task, total=total, completed=status.forwarded, told=_sentence(status))
        return status


def status_between(first: Looked, last: Looked) -> Status:
    """What two looks tell. Pure."""
    waiting, forwarded = _waiting(last), sum(_forwarded(lane) for lane in last.lanes)
    went = sum(now.forwarded_to - before.forwarded_to for before, now in zip(first.lanes, last.lanes, strict=True))
    took_s = last.at_s - first.at_s
    rate = max(went, 0) / took_s if took_s > 0 else 0.0
    remaining_s = waiting / rate if rate else None
    lanes = tuple(
        {"partition": lane.partition, "waiting": _lane_waiting(lane), "forwarded": _forwarded(lane)}
        for lane in last.lanes
    )
    return Status(waiting, forwarded, round(rate, 1), remaining_s if waiting else 0.0, lanes)


def print_status(status: Status, *, as_json: bool) -> None:
    """A sentence, or JSON for scripts."""
    typer.echo(json.dumps(asdict(status), indent=2) if as_json else _sentence(status))


def _sentence(status: Status) -> str:
    if not status.waiting:
        return f"nothing waits; {status.forwarded:,} forwarded"
    told = f"{status.waiting:,} waiting, {status.forwarded:,} forwarded, {status.rate_per_s:,.0f} a second"
    if status.remaining_s is None:
        return f"{told}; nothing moves just now: is a forwarder running, and does the worker count?"
    return f"{told}, done in {_span(status.remaining_s)}"


def _span(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


class _Looking:
    """Asks a consumer that never joins the group."""

    def __init__(self, consumer: Any, bootstrap_servers: str) -> None:
        self._consumer = consumer
        self._servers = bootstrap_servers

    def __enter__(self) -> Callable[[], Looked]:
        return self._look

    def __exit__(self, *_: object) -> None:
        self._consumer.close()

    def _look(self) -> Looked:
        try:
            return Looked(time.monotonic(), tuple(self._lanes()))
        except KafkaException as exc:
            message = f"Kafka at {self._servers}: {exc.args[0].str()}"
            raise BrokerError(message) from exc

    def _lanes(self) -> Iterator[Look]:
        found = self._consumer.list_topics(USAGE_BACKFILL, timeout=_TIMEOUT_S).topics[USAGE_BACKFILL]
        if found.error is not None:
            message = f"there is no topic {USAGE_BACKFILL}; make it with: meterlog topics create"
            raise CommandError(message)
        asked = [TopicPartition(USAGE_BACKFILL, number) for number in sorted(found.partitions)]
        for place in self._consumer.committed(asked, timeout=_TIMEOUT_S):
            start, end = self._consumer.get_watermark_offsets(place, timeout=_TIMEOUT_S)
            yield Look(place.partition, start, max(place.offset, start), end)


def _looking(bootstrap_servers: str) -> _Looking:
    settings = {"bootstrap.servers": bootstrap_servers, "group.id": FORWARDER_GROUP, "log_level": 0}
    return _Looking(Consumer(settings), bootstrap_servers)


def _waiting(looked: Looked) -> int:
    return sum(_lane_waiting(lane) for lane in looked.lanes)


def _lane_waiting(lane: Look) -> int:
    return max(0, lane.end - lane.forwarded_to)


def _forwarded(lane: Look) -> int:
    return lane.forwarded_to - lane.start

"""A deployment for one test: topics of its own on the shared broker, load, workers, and the audit of the outcome."""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from runtime.launch import Process, spawn
from streams.exit import EXIT_SURPRISE
from tests.streams.toy import encode_event
from tests.streams.worker_process import EXIT_REFUSED, Plan, topic_names

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 60.0
_POLL_S = 0.02

Event = tuple[bytes | None, bytes]
Log = list[tuple[int, bytes | None, bytes | None]]
"""Offset, key and value of records."""


def wait_until(what: str, condition: Callable[[], bool], deadline_s: float = DEADLINE_S) -> None:
    """Fails, naming what did not come true."""
    end = time.monotonic() + deadline_s
    pause = threading.Event()
    while not condition():
        if time.monotonic() > end:
            message = f"not within {deadline_s:g} s: {what}"
            raise AssertionError(message)
        pause.wait(_POLL_S)


def make_events(rng: random.Random, count: int, customers: int = 300) -> list[Event]:
    """Usage of which 5 % repeats an earlier event and 1 in 200 cannot be read."""
    events: list[Event] = []
    first_id = rng.randrange(1 << 60)
    for number in range(count):
        chance = rng.random()
        if chance < 0.05 and events:
            events.append(rng.choice(events))
        elif chance < 0.055:
            events.append((b"customer-%d" % rng.randrange(customers), b"garbage"))
        else:
            value = encode_event(first_id + number, rng.randrange(1, 1_000))
            events.append((b"customer-%d" % rng.randrange(customers), value))
    return events


class Worker:
    """A worker process that can be started again."""

    def __init__(self, plan: Plan, log_file: Path) -> None:
        self.plan = plan
        self.log_file = log_file
        self._process: Process | None = None
        self._life_starts_at = 0

    def start(self, **changes: Any) -> Worker:
        """Start a life; `changes` of the plan hold for this one only."""
        plan = replace(self.plan, **changes)
        argv = [sys.executable, "-m", "tests.streams.worker_process", plan.to_json()]
        self._life_starts_at = self.log_file.stat().st_size if self.log_file.exists() else 0
        self._process = spawn(argv, log_file=self.log_file, cwd=ROOT)
        return self

    @property
    def process(self) -> Process:
        assert self._process is not None, "the worker was never started"
        return self._process

    def wait_exit(self, deadline_s: float = DEADLINE_S) -> int:
        """The exit code; negative: the signal's number."""
        try:
            return self.process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            message = f"the worker did not end; its log:\n{self.log_tail()}"
            raise AssertionError(message) from None

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self, by: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(by)
        return self.wait_exit()

    def wipe(self) -> None:
        shutil.rmtree(self.plan.data_dir)

    @property
    def is_running(self) -> bool:
        return self.process.poll() is None

    def wait_stopped_by_signal(self) -> None:
        """Wait until the kernel has stopped the process (SIGSTOP)."""
        process = psutil.Process(self.process.pid)
        wait_until("the worker stops itself", lambda: process.status() == psutil.STATUS_STOPPED)

    def wait_owner(self, of_count: int = 1) -> Worker:
        """Wait until this life of the worker folds at least so many partitions."""

        def owned_count() -> int:
            assert self.is_running, f"{self.log_file.name} ended:\n{self.log_tail()}"
            owned = re.findall(r"partitions\.owned ({.*})", self.log()[self._life_starts_at :])
            return len(json.loads(owned[-1])["offsets"]) if owned else 0

        wait_until(f"{self.log_file.name} owns {of_count} partitions", lambda: owned_count() >= of_count)
        return self

    def wait_said(self, event: str) -> Worker:
        """Wait until this life of the worker has said `event`."""

        def is_said() -> bool:
            assert self.is_running, f"{self.log_file.name} ended:\n{self.log_tail()}"
            return bool(self.said(event))

        wait_until(f"{self.log_file.name} says {event}", is_said)
        return self

    def said(self, event: str) -> list[dict[str, Any]]:
        """The fields of each time that this life has said `event`."""
        found = re.findall(rf"{re.escape(event)} ({{.*}})", self.log()[self._life_starts_at :])
        return [json.loads(fields) for fields in found]

    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def log_tail(self, lines: int = 60) -> str:
        return "\n".join(self.log().splitlines()[-lines:])


class World:
    """Topics with a prefix of their own, what was produced to them, and the workers that fold them."""

    def __init__(self, bootstrap_servers: str, directory: Path, partitions: int) -> None:
        self.bootstrap_servers = bootstrap_servers
        self.directory = directory
        self.partitions = partitions
        self.prefix = f"toy-{uuid.uuid4().hex[:8]}"
        self.topics = topic_names(self.prefix)
        self.workers: list[Worker] = []
        self._admin = AdminClient({"bootstrap.servers": bootstrap_servers, "log_level": 0})
        self._create_topics()
        settings = {"bootstrap.servers": bootstrap_servers, "group.id": f"{self.prefix}-fold", "log_level": 0}
        self._group = Consumer(settings)

    def _create_topics(self) -> None:
        changelogs = self.topics.changelogs.values()
        compact = {"cleanup.policy": "compact"}
        stamped = {"message.timestamp.type": "LogAppendTime"}
        wanted = [
            NewTopic(topic, self.partitions, 1, config=compact if topic in changelogs else stamped)
            for topic in self.topics.all
        ]
        for future in self._admin.create_topics(wanted).values():
            future.result()

    def worker(self, name: str, **plan: Any) -> Worker:
        """A worker with a data directory of its own, not started."""
        made = Plan(self.bootstrap_servers, self.prefix, str(self.directory / name), **plan)
        self.workers.append(Worker(made, self.directory / f"{name}.log"))
        return self.workers[-1]

    def close(self) -> None:
        """Leave no process behind."""
        self._group.close()
        for worker in self.workers:
            if worker._process is not None and worker.is_running:
                worker.process.send_signal(signal.SIGCONT)
                worker.kill()

    # Load

    def produce(self, events: Sequence[Event], rate: float | None = None, transaction: bool | None = None) -> None:
        """Put events on the source and wait for the broker; `rate` a second (None: as fast as it goes).

        `transaction`: None for plain records, else whether they are committed or aborted as a whole.
        """
        settings: dict[str, Any] = {"bootstrap.servers": self.bootstrap_servers, "acks": "all", "log_level": 0}
        if transaction is not None:
            settings["transactional.id"] = f"{self.prefix}-load"
        producer = Producer(settings | {"linger.ms": 2, "enable.idempotence": True})
        if transaction is not None:
            producer.init_transactions()
            producer.begin_transaction()
        pause = threading.Event()
        for chunk, pause_s in _paced(events, rate):
            for key, value in chunk:
                partition = zlib.crc32(key or b"") % self.partitions
                producer.produce(self.topics.source, value, key, partition=partition)
            producer.poll(0)
            pause.wait(pause_s)
        assert producer.flush(DEADLINE_S) == 0, "the broker did not take all events"
        if transaction is not None:
            (producer.commit_transaction if transaction else producer.abort_transaction)()

    @contextmanager
    def load(self, events: Sequence[Event], rate: float) -> Iterator[None]:
        """Events come at `rate` a second while the body runs; at its end all of them are on the source."""
        with ThreadPoolExecutor(1) as threads:
            producing = threads.submit(self.produce, events, rate)
            yield
            producing.result()

    # Progress

    def group_offsets(self) -> dict[int, int]:
        """What the group has committed; 0 where nothing. Waits for a broker that is away.

        By a consumer of the group: the admin client's call ends the process with a segmentation fault when the group's
        coordinator is not there (confluent-kafka 2.16.1).
        """
        wanted = [TopicPartition(self.topics.source, number) for number in range(self.partitions)]
        found: list[TopicPartition] = []

        def is_answered() -> bool:
            with suppress(KafkaException):
                found[:] = self._group.committed(wanted, timeout=5.0)
            return bool(found)

        wait_until("the group's offsets are told", is_answered)
        return {tp.partition: max(0, tp.offset) for tp in found}

    @property
    def folded_count(self) -> int:
        """Offsets behind the group, all partitions together."""
        return sum(self.group_offsets().values())

    def wait_folded(self, at_least: int, *workers: Worker, supervised: bool = False) -> None:
        """Wait until so many offsets are folded. A worker of `workers` that ends fails the test, or is supervised."""

        def is_there() -> bool:
            _look_after(workers, supervised)
            return self.folded_count >= at_least

        wait_until(f"{at_least} offsets of {self.prefix} are folded", is_there)

    def wait_all_folded(self, *workers: Worker, supervised: bool = False) -> None:
        """Wait until nothing of the source is left to fold. Trailing markers are nothing to fold."""
        source = self.read(self.topics.source)[self.topics.source]
        ends = {number: records[-1][0] + 1 for number, records in source.items() if records}

        def is_there() -> bool:
            _look_after(workers, supervised)
            folded = self.group_offsets()
            return all(folded[number] >= end for number, end in ends.items())

        wait_until(f"everything of {self.prefix} is folded", is_there)

    # Reading

    def read(self, *topics: str) -> dict[str, dict[int, Log]]:
        """Every committed record by topic and partition."""
        consumer = Consumer(
            {
                "bootstrap.servers": self.bootstrap_servers,
                "group.id": "audit",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "isolation.level": "read_committed",
                "auto.offset.reset": "error",
                "log_level": 0,
            }
        )
        found: dict[str, dict[int, Log]] = {topic: {n: [] for n in range(self.partitions)} for topic in topics}
        left = {(topic, number) for topic in topics for number in range(self.partitions)}
        try:
            consumer.assign([TopicPartition(topic, number, 0) for topic, number in left])
            while left:
                for message in consumer.consume(1_000, _POLL_S):
                    topic, number = message.topic(), message.partition()
                    if message.error() is None:
                        found[topic][number].append((message.offset(), message.key(), message.value()))
                    else:
                        assert message.error().name() == "_PARTITION_EOF", message.error()
                        left.discard((topic, number))
        finally:
            consumer.close()
        return found


def _look_after(workers: Iterable[Worker], supervised: bool) -> None:
    for worker in workers:
        if supervised and not worker.is_running:
            assert worker.wait_exit() in (EXIT_SURPRISE, EXIT_REFUSED), worker.log_tail()
            worker.start()
        assert worker.is_running, f"{worker.log_file.name} ended:\n{worker.log_tail()}"


def _paced(events: Sequence[Event], rate: float | None) -> Iterable[tuple[Sequence[Event], float]]:
    size = 200
    for start in range(0, len(events), size):
        yield events[start : start + size], 0.0 if rate is None else size / rate

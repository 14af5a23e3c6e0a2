"""A whole deployment whose parts a scenario may kill, stop and damage: brokers, several workers, sinks, stores, load, books.

Scenarios come one after the other on one deployment, each with workers of its own choice, and leave it healthy: what was ever
sent is in `model`, and every book must agree with all of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Self

import psutil
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from runtime.embedded import clickhouse, ports
from runtime.embedded.kafka import EmbeddedKafka
from runtime.launch import Process, spawn
from runtime.settings import write_stack_file
from runtime.supervisor import Child, Supervisor
from runtime.topics import create_topics, operator_key, public_bytes
from tests.faults.books import Differences, compare_ledger, ends_of, read_ledger, read_topic
from tests.faults.clocked_kafka import ClockedKafka
from tests.faults.command import METERLOG, ROOT, run_json
from tests.faults.load import TOPIC, KafkaDoor
from tests.faults.naive import Model
from tests.faults.stores import clickhouse_differences, stripe_differences
from tests.faults.tables import disk_differences, table_differences
from tests.faults.wire import BROKEN, Record, record_of
from tests.waiting import wait_until

__all__ = ["DEADLINE_S", "EXIT_REFUSED", "EXIT_SURPRISE", "KINDS", "PARTITIONS", "Deployment", "Place", "Worker"]

PARTITIONS: Final = 4
SESSION_S: Final = 2.0
DEADLINE_S: Final = 90.0
EXIT_SURPRISE: Final = 70
EXIT_REFUSED: Final = 2
"""A worker that may not start: a command's error, one line."""
_GROUP: Final = "meterlog-fold"
_RATE: Final = 400.0
_REPEATED_SHARE: Final = 0.15
KINDS: Final = tuple(kind for kind in BROKEN if "huge" not in kind)
"""Records of 900 kB belong to the kill tests: here every book is read after every scenario."""
_PLAIN: Final = (*METERLOG, "worker")
_NO_OVERRIDES: Mapping[str, object] = MappingProxyType({})


class Place(NamedTuple):
    """Of a record on the log."""

    partition: int
    offset: int


class Worker:
    """`meterlog worker` over all its lives, on a data directory of its own."""

    def __init__(self, name: str, directory: Path, environment: Mapping[str, str]) -> None:
        self.name = name
        self.directory = directory
        self.log_file = directory.with_suffix(".log")
        self.exits: list[int] = []
        """Exit codes of the lives that ended by themselves, without being told to."""
        self._environment = {**environment, "METERLOG_DATA_DIR": str(directory)}
        self._command: Sequence[str] = _PLAIN
        self.is_paused = False
        self._process: Process | None = None
        self._life_starts_at = 0

    def start(
        self, *, instance_id: str | None = None, session_s: float = SESSION_S, odd: Mapping[str, object] | None = None
    ) -> Self:
        """A first life. `odd`: what is to be wrong with this worker (see `odd_worker.py`), in later lives too.

        `instance_id`: a static member of the group under that name; None: a dynamic one, which leaves when it stops.
        """
        command = _PLAIN if odd is None else (sys.executable, "-m", "tests.faults.odd_worker", json.dumps(odd))
        self._command = command
        self._environment["METERLOG_WORKER_SESSION_TIMEOUT_S"] = str(session_s)
        self._environment.pop("METERLOG_WORKER_INSTANCE_ID", None)
        if instance_id is not None:
            self._environment["METERLOG_WORKER_INSTANCE_ID"] = instance_id
        return self.start_again()

    def start_again(self) -> Self:
        self._life_starts_at = self.log_file.stat().st_size if self.log_file.exists() else 0
        self._process = spawn(self._command, log_file=self.log_file, env=self._environment, cwd=ROOT)
        return self

    @property
    def process(self) -> Process:
        assert self._process is not None, f"{self.name} was never started"
        return self._process

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def has_ended(self) -> bool:
        """By itself: it was started, and nobody has stopped it."""
        return self._process is not None and self._process.poll() is not None

    def pause(self) -> None:
        """SIGSTOP: as a process that waits for its disk, or a machine that is moved, it does nothing and notices nothing."""
        self.process.send_signal(signal.SIGSTOP)
        self.is_paused = True

    def wait_asleep(self) -> None:
        """Until it has stopped itself."""
        process = psutil.Process(self.process.pid)
        wait_until(lambda: process.status() == psutil.STATUS_STOPPED, f"{self.name} stops itself", DEADLINE_S)
        self.is_paused = True

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.is_paused = False

    def kill(self) -> None:
        self.process.kill()
        self._end()

    def stop(self) -> None:
        """SIGTERM; fails unless it ends well."""
        self.process.terminate()
        assert self._end() == 0, f"{self.name} did not end well: {self.log()}"

    def wait_exit(self) -> int:
        """The exit code of a worker that ends by itself; negative: the signal's number."""
        code = self._end()
        self.exits.append(code)
        return code

    def _end(self) -> int:
        try:
            code = self.process.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            message = f"{self.name} does not end: {self.log()}"
            raise AssertionError(message) from None
        self._process = None
        self.is_paused = False
        return code

    @property
    def owned(self) -> list[int]:
        """The partitions that this life says it folds."""
        found = self.told("partitions.owned")
        return sorted(int(number) for number in found[-1]["offsets"]) if found and self.is_alive else []

    def told(self, event: str) -> list[dict[str, Any]]:
        """The fields of each log event of that name in this life."""
        lines = [line for line in self.life_log().splitlines() if f'"{event}"' in line and line.endswith("}")]
        return [line["fields"] for line in map(json.loads, lines) if line.get("event") == event]

    def wipe(self) -> None:
        shutil.rmtree(self.directory)

    @property
    def tables(self) -> Path:
        return self.directory / "worker" / "tables"

    def life_log(self) -> str:
        if not self.log_file.exists():
            return ""
        return self.log_file.read_bytes()[self._life_starts_at :].decode(errors="replace")

    def log(self) -> str:
        return self.life_log()[-4_000:]


class Deployment:
    """Use it as a context: nothing of it outlives that."""

    def __init__(
        self,
        directory: Path,
        *,
        kafka: EmbeddedKafka | None = None,
        brokers: int = 1,
        broker_settings: Mapping[str, object] = _NO_OVERRIDES,
        has_stores: bool = True,
    ) -> None:
        """`kafka` instead of stock brokers: one that is odd. Without stores and sinks only the topics can be compared."""
        self.directory = directory
        self.kafka = kafka or EmbeddedKafka(directory / "kafka", brokers, overrides=broker_settings)
        self.model = Model()
        self.workers: dict[str, Worker] = {}
        self.notes: list[str] = []
        """What a scenario found worth telling."""
        self.sent_count = 0
        self.group = _GROUP
        self._supervisor = Supervisor()
        self._clickhouse = clickhouse.endpoint(directory / "clickhouse")
        [self._stripe_port] = ports.remembered(directory / "ports.json", 1)
        self._group: Consumer | None = None
        self._ends: dict[int, int] = {}
        self._has_stores = has_stores

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> None:
        """Brokers and stores beside each other: each waits for itself most of the time."""
        self.kafka.prepare()
        with ThreadPoolExecutor(1) as threads:
            starting = threads.submit(self.kafka.start)
            if self._has_stores:
                self._run("embedded clickhouse", lambda: clickhouse.is_ready(self._clickhouse))
                self._run("embedded stripe", lambda: ports.accepts(self._stripe_port))
            starting.result()
        self._group = Consumer(
            {
                "bootstrap.servers": self.bootstrap_servers,
                "group.id": _GROUP,
                "enable.auto.commit": False,
                "log_level": 0,
            }
        )
        environment = self._variables()
        write_stack_file(self.directory, environment)
        key = operator_key(self.directory / "operator.key")
        create_topics(self.bootstrap_servers, PARTITIONS, self.replication, public_bytes(key))
        for sink in ("clickhouse", "stripe") if self._has_stores else ():
            self._run(f"sink {sink}")

    def _run(self, name: str, is_ready: Callable[[], bool] = lambda: True) -> None:
        log_file = self.directory / "logs" / f"{name.replace(' ', '-')}.log"
        environment = {**os.environ, **self._variables()}
        self._supervisor.start(
            Child(name, (*METERLOG, *name.split()), log_file, env=environment, cwd=ROOT, is_ready=is_ready)
        )
        self._supervisor.wait_ready(name)

    def close(self) -> None:
        for worker in self.workers.values():
            if worker.is_alive:
                worker.kill()
        self._supervisor.stop()
        if self._group is not None:
            self._group.close()
        self.kafka.stop()

    @property
    def bootstrap_servers(self) -> str:
        return self.kafka.bootstrap_servers

    @property
    def replication(self) -> int:
        return 3 if self.kafka.brokers >= 3 else 1

    def _variables(self) -> dict[str, str]:
        return {
            "METERLOG_BOOTSTRAP_SERVERS": self.bootstrap_servers,
            "METERLOG_DATA_DIR": str(self.directory),
            "METERLOG_PARTITIONS": str(PARTITIONS),
            "METERLOG_REPLICATION": str(self.replication),
            "METERLOG_CLICKHOUSE_URL": self._clickhouse.url,
            "METERLOG_CLICKHOUSE_USER": self._clickhouse.user,
            "METERLOG_CLICKHOUSE_PASSWORD": self._clickhouse.password,
            "METERLOG_STRIPE_URL": f"http://127.0.0.1:{self._stripe_port}",
            "METERLOG_STRIPE_SEND_INTERVAL_S": "0.5",
        }

    def begin(self) -> None:
        """Forget what the last scenario told; what it sent stays."""
        assert not self.alive, "a scenario starts its workers itself"
        self.notes, self.sent_count = [], 0
        for worker in self.workers.values():
            worker.exits = []

    # Workers

    def worker(self, name: str) -> Worker:
        """The worker of that name, with what earlier scenarios left in its data directory; not started by this."""
        if name not in self.workers:
            self.workers[name] = Worker(name, self.directory / name, {**os.environ, **self._variables()})
        return self.workers[name]

    def start(
        self,
        *names: str,
        static: bool = False,
        session_s: float = SESSION_S,
        odd: Mapping[str, object] | None = None,
    ) -> list[Worker]:
        """Start these workers, and wait until each partition has an owner and each of them owns some."""
        workers = [
            self.worker(name).start(instance_id=name if static else None, session_s=session_s, odd=odd)
            for name in names
        ]
        self.wait_owned(workers)
        return workers

    @property
    def alive(self) -> list[Worker]:
        """Those that run: not one that is paused."""
        return [worker for worker in self.workers.values() if worker.is_alive and not worker.is_paused]

    def wait_owned(self, workers: Sequence[Worker] = ()) -> None:
        """Each of `workers` owns partitions, and those that live own all of them, each once."""

        def is_so() -> bool:
            self.look_after()
            owned = [number for worker in self.alive for number in worker.owned]
            return sorted(owned) == list(range(PARTITIONS)) and all(worker.owned for worker in workers)

        wait_until(is_so, "every partition has one owner", DEADLINE_S)

    def look_after(self) -> None:
        """What a supervisor does: start again what ended by itself."""
        for worker in self.workers.values():
            if worker.has_ended:
                code = worker.wait_exit()
                assert code in (EXIT_SURPRISE, EXIT_REFUSED), f"{worker.name} ended with {code}: {worker.log()}"
                worker.start_again()

    def exits(self) -> dict[str, list[int]]:
        return {worker.name: worker.exits for worker in self.workers.values() if worker.exits}

    # Brokers

    def freeze_broker(self, duration_s: float) -> None:
        """It does nothing for so long; its sockets stay open."""
        self.kafka.kill(0, signal.SIGSTOP)
        threading.Event().wait(duration_s)
        self.kafka.kill(0, signal.SIGCONT)

    def wait_in_sync(self) -> None:
        """Every replica of every partition has all records."""
        assert self._group is not None, "the deployment was never started"
        group = self._group

        def is_so() -> bool:
            self.look_after()
            with contextlib.suppress(KafkaException):
                topics = group.list_topics(timeout=5.0).topics.values()
                return all(len(p.isrs) == len(p.replicas) for topic in topics for p in topic.partitions.values())
            return False

        wait_until(is_so, "every replica is in sync", DEADLINE_S)

    # Load

    @contextmanager
    def load(
        self, seed: str, rate: float = _RATE, kinds: Sequence[str] = KINDS, **settings: Any
    ) -> Iterator[KafkaDoor]:
        """Events come while the body runs. At its end all are acknowledged, and in the model."""
        door = KafkaDoor(self.bootstrap_servers, seed, time.time_ns() // 1_000, rate, **settings)
        door.mix(_REPEATED_SHARE, kinds)
        with ThreadPoolExecutor(1) as threads:
            sending = threads.submit(door.run)
            try:
                yield door
            finally:
                door.end()
                sending.result()
                self.took(door)

    def send_one(self, seed: str, *, rejected_as: str | None = None, timestamp_ms: int = 0, **fields: Any) -> Place:
        """One event, with other fields than a good one has; gives where it lies."""
        door = KafkaDoor(self.bootstrap_servers, f"{seed}/one", time.time_ns() // 1_000, rate=1)
        event = door.events.first()._replace(**fields)
        if rejected_as is None:
            door.model.send(event)
        else:
            door.model.send_broken(rejected_as)
        door.produce(record_of(event)._replace(timestamp_ms=timestamp_ms))
        door.finish()
        self.took(door)
        ((partition, offset),) = door.ends.items()
        return Place(partition, offset)

    def advance_log_time(self, seed: str, moment_ms: int) -> None:
        """A record that nobody can read, with this time, on every partition of a log that its producers time."""
        door = KafkaDoor(self.bootstrap_servers, f"{seed}/time", time.time_ns() // 1_000, rate=1)
        for partition in range(PARTITIONS):
            door.model.send_broken("unreadable")
            door.produce(Record(b"acme/ann", b"later", timestamp_ms=moment_ms), partition)
        door.finish()
        self.took(door)

    def took(self, door: KafkaDoor) -> None:
        """What a door has sent is part of what the books must say."""
        self.model += door.model
        self.sent_count += door.sent_count
        for partition, offset in door.ends.items():
            self._ends[partition] = max(offset, self._ends.get(partition, -1))

    def wait_until(self, condition: Callable[[], object], what: str) -> None:
        """Wait. Workers that end meanwhile are started again."""

        def is_so() -> bool:
            self.look_after()
            return bool(condition())

        wait_until(is_so, what, DEADLINE_S)

    def wait_sent(self, door: KafkaDoor, count: int) -> None:
        """Wait until so many more have been sent. Workers that end meanwhile are started again."""
        target = door.sent_count + count

        def is_sent() -> bool:
            self.look_after()
            return door.sent_count >= target

        wait_until(is_sent, f"{count} more events are sent", DEADLINE_S)

    # Progress

    def folded(self) -> dict[int, int]:
        """What the group has committed, by partition; 0 where nothing. Empty when nobody answers.

        By a consumer of the group: the admin client's call ends the process when the group's coordinator is away
        (confluent-kafka 2.16.1).
        """
        assert self._group is not None, "the deployment was never started"
        wanted = [TopicPartition(TOPIC, number) for number in range(PARTITIONS)]
        with contextlib.suppress(KafkaException):
            return {tp.partition: max(0, tp.offset) for tp in self._group.committed(wanted, timeout=5.0)}
        return {}

    def wait_progress(self, count: int, partitions: Sequence[int] = range(PARTITIONS)) -> None:
        """Wait until so many more offsets of these partitions together are folded."""
        before: dict[int, int] = {}

        def is_so() -> bool:
            nonlocal before
            self.look_after()
            now = self.folded()
            before = before or now
            return bool(now) and sum(now[number] - before[number] for number in partitions) >= count

        wait_until(is_so, f"{count} more offsets of {list(partitions)} are folded", DEADLINE_S)

    def wait_folded(self) -> None:
        """Wait until every event that was acknowledged is folded."""

        def is_so() -> bool:
            self.look_after()
            now = self.folded()
            return bool(now) and all(now[number] > end for number, end in self._ends.items())

        wait_until(is_so, "everything is folded", DEADLINE_S)

    def wait_stands(self, place: Place, kind: str) -> None:
        """Wait until a worker says that it stands before this record."""
        wanted = {"partition": place.partition, "offset": place.offset, "kind": kind}

        def is_so() -> bool:
            self.look_after()
            told = [fields for worker in self.alive for fields in worker.told("partition.stands")]
            return any(wanted.items() <= fields.items() for fields in told)

        wait_until(is_so, f"a worker stands: {wanted}", DEADLINE_S)

    def order(self, *words: str, place: Place) -> None:
        """`meterlog` as the operator uses it, for the record before which a partition stands."""
        where = ("--partition", str(place.partition), "--offset", str(place.offset))
        run_json(*words, *where, "--json", data_dir=self.directory)

    def set_broker_clock(self, offset_ms: int) -> None:
        assert isinstance(self.kafka, ClockedKafka), "this broker has the machine's clock"
        self.kafka.set_clock(offset_ms)

    def timed_after(self, moment_ms: int) -> list[tuple[Place, Place]]:
        """Of each partition of the log that has records with a later time: the first and the last of them."""
        places: dict[int, list[Place]] = {}
        for entry in read_topic(self.bootstrap_servers, TOPIC):
            if entry.append_ms > moment_ms:
                places.setdefault(entry.partition, []).append(Place(entry.partition, entry.offset))
        return [(found[0], found[-1]) for found in places.values()]

    def deleted_rows(self, topic: str) -> int:
        """Deletions that the topic still tells of."""
        return sum(entry.value is None for entry in read_topic(self.bootstrap_servers, topic))

    def alter_topic(self, topic: str, settings: Mapping[str, str]) -> None:
        resource = ConfigResource(ResourceType.TOPIC, topic)
        for name, value in settings.items():
            resource.add_incremental_config(ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET))
        admin = AdminClient({"bootstrap.servers": self.bootstrap_servers, "log_level": 0})
        for future in admin.incremental_alter_configs([resource]).values():
            future.result(DEADLINE_S)

    # Books

    def differences(self) -> Differences:
        """Of every book to what was ever sent. Ends the workers, in peace: their tables are read from disk."""
        self.wait_folded()
        self.wait_owned()
        log, ledger = self._settled()
        found = compare_ledger(log, read_ledger(ledger), self.model)
        found += eventually(
            lambda: clickhouse_differences(
                self._clickhouse.url, self._clickhouse.user, self._clickhouse.password, self.model
            )
        )
        found += eventually(lambda: stripe_differences(f"http://127.0.0.1:{self._stripe_port}", self.model))
        owned = {worker.name: (worker.tables, worker.owned) for worker in self.alive}
        for worker in self.alive:
            worker.stop()
        found += table_differences(self.bootstrap_servers, self.model)
        for tables, partitions in owned.values():
            found += disk_differences(self.bootstrap_servers, tables, partitions)
        return found

    def _settled(self) -> tuple[list[Any], list[Any]]:
        """Log and ledger, where the one is folded into the other: a tick may come between two looks."""
        found: tuple[list[Any], list[Any]] = ([], [])

        def is_so() -> bool:
            nonlocal found
            self.look_after()
            found = read_topic(self.bootstrap_servers, TOPIC), read_topic(self.bootstrap_servers, "ledger")
            return ends_of(found[0]) == ends_of(read_ledger(found[1]).sources)

        wait_until(is_so, "the ledger has facts of each partition's last record", DEADLINE_S)
        return found


def eventually(check: Callable[[], Differences]) -> Differences:
    """What is left of a book's differences once they are gone, or the sink's time is up."""
    found: Differences = []

    def is_exact() -> bool:
        found[:] = _found_by(check)
        return found == []

    with contextlib.suppress(AssertionError):  # which would not say what is left
        wait_until(is_exact, "the book is exact", DEADLINE_S)
    return found


def _found_by(check: Callable[[], Differences]) -> Differences:
    """A store that was killed may not serve yet: that is a difference too."""
    try:
        return check()
    except OSError as exc:
        return [repr(exc)]

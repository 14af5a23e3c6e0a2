"""A forwarder process that can be killed and started again, and a producer of history for it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

from confluent_kafka import Consumer, KafkaException, TopicPartition

from runtime.launch import Process, spawn
from tests.faults.books import read_topic
from tests.faults.load import KafkaDoor
from tests.faults.wire import Record
from tests.waiting import wait_until

__all__ = ["BackfillDoor", "Forwarder"]

_ROOT: Final = Path(__file__).resolve().parents[2]
_TOPIC: Final = "usage-backfill"
_GROUP: Final = "meterlog-forwarder"
_DEADLINE_S: Final = 120.0
_TIMEOUT_S: Final = 5.0
COMMAND: Final = (sys.executable, "-m", "runtime", "forwarder")


class BackfillDoor(KafkaDoor):
    """The plain producer of the other tests, by the other lane."""

    def produce(self, record: Record, partition: int = -1) -> None:
        arguments = {} if partition < 0 else {"partition": partition}
        self._producer.produce(_TOPIC, record.value, record.key, on_delivery=self._note, **arguments)


class Forwarder:
    def __init__(self, bootstrap_servers: str, directory: Path, window: int = 200) -> None:
        self.log_file = directory / "forwarder.log"
        self._servers = bootstrap_servers
        self._process: Process | None = None
        self._environment = {
            **os.environ,
            "METERLOG_BOOTSTRAP_SERVERS": bootstrap_servers,
            "METERLOG_DATA_DIR": str(directory),
            "METERLOG_FORWARDER_WINDOW": str(window),
        }

    def start(self, command: Sequence[str] = COMMAND) -> None:
        self._process = spawn(command, log_file=self.log_file, env=self._environment, cwd=_ROOT)

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        assert self._process is not None, "the forwarder was never started"
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        assert self._process is not None, "the forwarder was never started"
        self._process.send_signal(signal.SIGTERM)
        assert self._process.wait(_DEADLINE_S) == 0, self.log()

    def wait_exit(self) -> int:
        assert self._process is not None, "the forwarder was never started"
        return self._process.wait(_DEADLINE_S)

    def wait_forwarded(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Wait until the group has noted all that lies on the topic. Fails at once when the process ends."""
        ends: dict[int, int] = {}
        for entry in read_topic(self._servers, _TOPIC):
            ends[entry.partition] = entry.offset + 1

        def is_there() -> bool:
            assert self.is_alive, f"the forwarder ended: {self.log()}"
            meanwhile()
            return noted(self._servers, ends) == ends

        wait_until(is_there, "everything is forwarded", _DEADLINE_S)

    def log(self) -> str:
        return self.log_file.read_text(errors="replace")[-6_000:]

    def close(self) -> None:
        if self.is_alive:
            self.kill()


def noted(bootstrap_servers: str, partitions: Iterable[int]) -> dict[int, int]:
    """Where the forwarder's next life begins; nothing while no broker says."""
    consumer = Consumer({"bootstrap.servers": bootstrap_servers, "group.id": _GROUP, "log_level": 0})
    try:
        asked = [TopicPartition(_TOPIC, number) for number in partitions]
        return {found.partition: found.offset for found in consumer.committed(asked, timeout=_TIMEOUT_S)}
    except KafkaException:
        return {}
    finally:
        consumer.close()

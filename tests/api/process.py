"""An API process for tests, and what its clients do."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any, Self

import httpx
from confluent_kafka import Consumer, KafkaError, TopicPartition

from billing.records import UsageEvent
from runtime.embedded import ports
from runtime.launch import Process, spawn
from schemas.codec import decode
from schemas.topics import USAGE_EVENTS
from tests.waiting import wait_until

PARTITIONS = 4


class ApiProcess:
    """`with ApiProcess(tmp_path, bootstrap_servers=...) as api`: serves, and is gone afterwards."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.port = ports.pick(1)[0]
        self.log_file = folder / "api.log"
        self._settings = {"port": self.port, "partitions": PARTITIONS, **settings}
        self.process: Process | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    def start(self) -> Self:
        self.process = spawn(
            [sys.executable, "-W", "error", "-m", "tests.api.serve", json.dumps(self._settings)],
            log_file=self.log_file,
            cwd=Path(__file__).parents[2],
        )
        try:
            wait_until(self._answers, f"the API answers; see {self.log_file}")
        except BaseException:
            self.kill()
            raise
        return self

    def wait_for_keys(self) -> Self:
        wait_until(lambda: "api.keys_loaded" in self.log, "the API has read its keys")
        return self

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        return self.process.wait(30)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log
        try:
            httpx.get(f"{self.url}/v1/nothing")
        except httpx.TransportError:
            return False
        return True


def on_topic(bootstrap_servers: str, org: str, topic: str = USAGE_EVENTS) -> list[tuple[int, UsageEvent]]:
    """Every usage event of `org` that the topic has now, with its partition."""
    found = []
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap_servers,
            "group.id": "test-reader",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
        }
    )
    consumer.assign([TopicPartition(topic, partition, 0) for partition in range(PARTITIONS)])
    ended: set[int] = set()
    while len(ended) < PARTITIONS:
        for message in consumer.consume(1_000, 0.05):
            if (error := message.error()) is not None:
                assert error.code() == KafkaError._PARTITION_EOF, error
                ended.add(message.partition())
            elif (message.key() or b"").startswith(f"{org}/".encode()):
                record = decode(message.value())
                assert isinstance(record, UsageEvent), record
                found.append((message.partition(), record))
    consumer.close()
    return found

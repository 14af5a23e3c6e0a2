"""A fold alone: a broker of its own, the real topics, and a worker process that can be killed and started again."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from runtime.embedded.kafka import EmbeddedKafka
from runtime.launch import Process, spawn
from runtime.topics import create_topics
from tests.faults.books import Differences, is_folded, ledger_differences
from tests.faults.naive import Model
from tests.waiting import wait_until

__all__ = ["Fold", "fold"]

_ROOT: Final = Path(__file__).resolve().parents[2]
_PARTITIONS: Final = 4
_DEADLINE_S: Final = 60.0
_STOCK_MESSAGE_BYTES_MAX: Final = 1_048_588
"""Kafka's own default, as production has it: what must be larger must be so by the topic's settings."""
_OPERATOR_KEY: Final = bytes(32)
WORKER: Final = (sys.executable, "-m", "runtime", "worker")


class Fold:
    """One deployment of topics, and its one worker."""

    def __init__(self, bootstrap_servers: str, directory: Path) -> None:
        self.bootstrap_servers = bootstrap_servers
        self.log_file = directory / "worker.log"
        self._process: Process | None = None
        self._environment = {
            **os.environ,
            "METERLOG_BOOTSTRAP_SERVERS": bootstrap_servers,
            "METERLOG_DATA_DIR": str(directory),
            "METERLOG_PARTITIONS": str(_PARTITIONS),
            "METERLOG_REPLICATION": "1",
            "METERLOG_WORKER_INSTANCE_ID": "worker-1",
            "METERLOG_WORKER_SESSION_TIMEOUT_S": "6",
        }
        create_topics(bootstrap_servers, _PARTITIONS, 1, _OPERATOR_KEY)

    def start(self, command: Sequence[str] = WORKER) -> None:
        self._process = spawn(command, log_file=self.log_file, env=self._environment, cwd=_ROOT)

    def kill(self) -> None:
        assert self._process is not None, "the worker was never started"
        self._process.kill()
        self._process.wait()

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def wait_exit(self) -> int:
        """The exit code; negative: the signal's number."""
        assert self._process is not None, "the worker was never started"
        return self._process.wait(_DEADLINE_S)

    def stop(self) -> None:
        assert self._process is not None, "the worker was never started"
        self._process.send_signal(signal.SIGTERM)
        assert self.wait_exit() == 0, self.log()

    def wait_folded(self) -> None:
        """Wait until the worker is at the log's end. Fails at once when it ends."""

        def is_there() -> bool:
            assert self.is_alive, f"the worker ended: {self.log()}"
            return is_folded(self.bootstrap_servers)

        wait_until(is_there, "everything is folded", _DEADLINE_S)

    def differences(self, model: Model) -> Differences:
        return ledger_differences(self.bootstrap_servers, model)

    def log(self) -> str:
        return self.log_file.read_text(errors="replace")[-6_000:]

    def close(self) -> None:
        if self.is_alive:
            self.kill()


@contextmanager
def fold(directory: Path) -> Iterator[Fold]:
    """A deployment of its own; nothing of it outlives the context."""
    with EmbeddedKafka(directory / "kafka", overrides={"message.max.bytes": _STOCK_MESSAGE_BYTES_MAX}) as kafka:
        made = Fold(kafka.bootstrap_servers, directory)
        try:
            yield made
        finally:
            made.close()

"""What a run costs: the wall's time and the processes' CPU between two moments of its progress."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import psutil
from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from runtime.launch import Process

__all__ = ["Cost", "Meter", "Progress", "RunFailed", "wait_for"]

_POLL_S = 0.02  # 0.7 % of a run of 3 s; each look costs the broker about 1 ms
_DEADLINE_S = 120.0


class RunFailed(RuntimeError):
    """A worker ended, or did not come to the end of its load in time; there is no figure."""


class Cost(NamedTuple):
    """Of one measured stretch of a run."""

    events: int
    wall_s: float
    cpu_s: float
    """User and system, all threads of the measured process."""
    broker_cpu_s: float

    @property
    def cpu_us_per_event(self) -> float:
        return self.cpu_s / self.events * 1e6

    @property
    def events_per_core_s(self) -> float:
        return self.events / self.cpu_s

    @property
    def events_per_s(self) -> float:
        return self.events / self.wall_s


class Meter:
    """Reads the clocks of a worker and of its broker."""

    def __init__(self, worker: Process, broker_pid: int) -> None:
        self._worker = psutil.Process(worker.pid)
        self._broker = psutil.Process(broker_pid)

    def start(self) -> None:
        self._began = self._now()

    def stop(self, events: int) -> Cost:
        now = self._now()
        wall_s, cpu_s, broker_cpu_s = (after - before for before, after in zip(self._began, now, strict=True))
        return Cost(events, wall_s, cpu_s, broker_cpu_s)

    def _now(self) -> tuple[float, float, float]:
        worker, broker = self._worker.cpu_times(), self._broker.cpu_times()
        return time.perf_counter(), worker.user + worker.system, broker.user + broker.system


class Progress:
    """How far a consumer group, or a topic, has come."""

    def __init__(self, bootstrap_servers: str, partitions: int) -> None:
        self._admin = AdminClient({"bootstrap.servers": bootstrap_servers, "log_level": 0})
        self._partitions = partitions

    def ends(self, topic: str) -> dict[int, int]:
        """The offset behind the last record of each partition, uncommitted ones included."""
        asked = {TopicPartition(topic, number): OffsetSpec.latest() for number in range(self._partitions)}
        return {tp.partition: future.result().offset for tp, future in self._admin.list_offsets(asked).items()}

    def committed(self, group: str, topic: str) -> dict[int, int]:
        """The group's offsets, 0 where it has none."""
        wanted = [TopicPartition(topic, number) for number in range(self._partitions)]
        futures = self._admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group, wanted)])
        return {tp.partition: max(0, tp.offset) for tp in futures[group].result().topic_partitions}

    def has_folded(self, group: str, topic: str, ends: dict[int, int]) -> bool:
        committed = self.committed(group, topic)
        return all(committed[number] >= end for number, end in ends.items())


def wait_for(what: str, process: Process, condition: Callable[[], bool]) -> None:
    """Raises RunFailed when the process has ended, or two minutes have passed."""
    deadline_s = time.monotonic() + _DEADLINE_S
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline_s:
            state = "still runs" if process.poll() is None else f"ended with {process.returncode}"
            message = f"{what} did not happen; the process {state}"
            raise RunFailed(message)
        time.sleep(_POLL_S)

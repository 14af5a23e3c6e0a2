"""How long a partition stands after its owner's SIGKILL, with tables of a real size."""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from threading import Event

from bench.changelogs import Row, produce_rows
from bench.clock import Progress, wait_for
from bench.load import Spread, make_load, produce
from bench.shapes import SHAPES
from runtime.launch import Process, spawn
from runtime.topics import create_topics
from schemas.topics import ACCOUNTS_CHANGELOG, FOLD_GROUP, SEEN_CHANGELOG, USAGE_EVENTS

__all__ = ["time_takeovers"]

ROOT = Path(__file__).resolve().parents[1]
PARTITIONS = 4
_CHANGELOGS = {"accounts": ACCOUNTS_CHANGELOG, "seen": SEEN_CHANGELOG}
_LOAD_INTERVAL_S = 0.2
_LOAD_EVENTS = 100  # every partition has something to count all the time


def time_takeovers(servers: str, folder: Path, rows: Iterator[Row], standbys: int, count: int) -> Iterator[float]:
    """Seconds from an owner's kill to the first commit of the last of its partitions, `count` times.

    The workers have no names that last: the group waits for the session's timeout of 6 s first, and that is part of it.
    """
    create_topics(servers, PARTITIONS, 1, bytes(32))
    produce_rows(servers, _CHANGELOGS, rows)
    progress = Progress(servers, PARTITIONS)
    with ExitStack() as stack:
        workers = [_start(servers, folder, name, standbys, stack) for name in ("one", "two")]
        for process, log in workers:
            wait_for("a worker's first partitions", process, lambda log=log: _said(log, "partitions.owned"))  # type: ignore[misc]
        stack.enter_context(_Load(servers))
        for _ in range(count):
            (killed, _), (heir, heir_log) = workers
            if standbys:
                wait_for("the standby", heir, lambda log=heir_log: _said(log, "standby.ready"))  # type: ignore[misc]
            _wait_growth(heir, progress)
            killed.kill()
            began = time.perf_counter()
            killed.wait()
            _wait_growth(heir, progress)
            yield time.perf_counter() - began
            heir_log.write_text("")
            workers = [workers[1], _start(servers, folder, f"next-{time.time_ns()}", standbys, stack)]
            process, log = workers[1]
            wait_for("the next worker's partitions", process, lambda log=log: _said(log, "partitions.owned"))  # type: ignore[misc]


def _wait_growth(heir: Process, progress: Progress) -> None:
    """Until every partition has committed an epoch since now."""
    before = progress.committed(FOLD_GROUP, USAGE_EVENTS)

    def has_grown() -> bool:
        now = progress.committed(FOLD_GROUP, USAGE_EVENTS)
        return all(now[number] > before[number] for number in before)

    wait_for("an epoch of every partition", heir, has_grown)


def _said(log: Path, event: str) -> bool:
    return event in log.read_text(errors="replace")


def _start(servers: str, folder: Path, name: str, standbys: int, stack: ExitStack) -> tuple[Process, Path]:
    log = folder / f"{name}-{standbys}.log"
    variables = {
        "METERLOG_BOOTSTRAP_SERVERS": servers,
        "METERLOG_DATA_DIR": str(folder / f"{name}-{standbys}"),
        "METERLOG_PARTITIONS": str(PARTITIONS),
        "METERLOG_REPLICATION": "1",
        "METERLOG_WORKER_STANDBY_REPLICAS": str(standbys),
        "METERLOG_METRICS_PORT": "0",
    }
    process = spawn([sys.executable, "-m", "bench.worker"], log_file=log, env={**os.environ, **variables}, cwd=ROOT)
    stack.callback(process.wait)
    stack.callback(process.kill)
    return process, log


class _Load:
    """Some hundred events a second, until the body ends."""

    def __init__(self, servers: str) -> None:
        self._servers = servers
        self._ended = Event()
        self._threads = ThreadPoolExecutor(1)

    def __enter__(self) -> None:
        self._sending = self._threads.submit(self._send)

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._threads.shutdown()
        self._sending.result()

    def _send(self) -> None:
        rng, shape, spread = random.Random(1), SHAPES["builtin"], Spread(5_000, 2, 0.0)
        while not self._ended.wait(_LOAD_INTERVAL_S):
            produce(
                self._servers,
                USAGE_EVENTS,
                make_load(rng, shape, _LOAD_EVENTS, spread, time.time_ns() // 1_000_000).messages,
            )

"""How long counting pauses while workers are restarted one after the other under load: `python -m bench.rolling`.

Three workers (or `--workers`) with instance ids, 5,000 events a second. Each is stopped and started again; the pauses are read
from the ledger's own times. At the end every book is held against what was sent: exit 1 where one differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from bench.check import check_meterlog
from bench.clock import Progress, RunFailed, wait_for
from bench.load import Spread, make_load, send_paced
from bench.report import machine
from bench.shapes import SHAPES
from runtime.embedded.kafka import EmbeddedKafka
from runtime.launch import Process, spawn
from runtime.logs import read
from runtime.topics import create_topics
from schemas.ledger import LedgerReader, SourceRecord
from schemas.topics import FOLD_GROUP, LEDGER, USAGE_EVENTS

__all__ = ["main"]

ROOT = Path(__file__).resolve().parents[1]
PARTITIONS = 4
_OPERATOR_KEY = bytes(32)  # nothing is signed here
_SHAPE = SHAPES["builtin"]
_SETTLE_S = 8.0
"""Of load before the first restart and after each one: what a restart costs must not run into the next."""
_STOP_WAIT_S = 30.0
_CATCH_UP_S = 120.0


class Restart(NamedTuple):
    """One worker's."""

    worker: str
    stop_s: float
    """From SIGTERM to its end."""
    back_s: float
    """From SIGTERM until it folds again."""
    pause_s: float
    """The longest that a partition's ledger told nothing."""
    age_s_max: float
    """The oldest that an event was when it was counted."""


class Counted(NamedTuple):
    """An event's two times, by the broker's clock."""

    partition: int
    sent_ms: int
    counted_ms: int


class Workers:
    """`meterlog worker`, several times."""

    def __init__(self, bootstrap_servers: str, folder: Path, count: int) -> None:
        self._servers = bootstrap_servers
        self._folder = folder
        self.names = [f"worker-{number + 1}" for number in range(count)]
        self._processes: dict[str, Process] = {}

    def start(self, name: str) -> None:
        environment = {
            **os.environ,
            "METERLOG_BOOTSTRAP_SERVERS": self._servers,
            "METERLOG_DATA_DIR": str(self._folder / name),
            "METERLOG_PARTITIONS": str(PARTITIONS),
            "METERLOG_REPLICATION": "1",
            "METERLOG_WORKER_INSTANCE_ID": name,
        }
        argv = (sys.executable, "-m", "runtime", "worker")
        self._processes[name] = spawn(argv, log_file=self._log(name), env=environment, cwd=ROOT)

    def stop(self, name: str) -> None:
        process = self._processes[name]
        process.terminate()
        if (code := process.wait(_STOP_WAIT_S)) != 0:
            message = f"{name} ended with {code}; its log is {self._log(name)}"
            raise RunFailed(message)

    def wait_owns(self, name: str, after: int) -> None:
        """Until it has come to own partitions more often than `after` times. Raises RunFailed."""
        wait_for(f"{name} owns partitions", self._processes[name], lambda: self.take_overs(name) > after)

    def take_overs(self, name: str) -> int:
        """How often it came to own partitions, in all its lives."""
        log = self._log(name)
        return log.read_text(errors="replace").count('"partitions.owned"') if log.exists() else 0

    def kill(self) -> None:
        for process in self._processes.values():
            if process.poll() is None:
                process.kill()
                process.wait()

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"


def main() -> int:
    args = _arguments()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rolling-")))
        kafka = stack.enter_context(EmbeddedKafka(folder / "kafka"))
        create_topics(kafka.bootstrap_servers, PARTITIONS, 1, _OPERATOR_KEY)
        workers = Workers(kafka.bootstrap_servers, folder, args.workers)
        stack.callback(workers.kill)
        return _run(kafka.bootstrap_servers, workers, args)


def _run(servers: str, workers: Workers, args: argparse.Namespace) -> int:
    load = make_load(random.Random(args.seed), _SHAPE, args.rate * args.seconds, Spread(5_000, 2, 0.05), _now_ms())
    for name in workers.names:
        workers.start(name)
    for name in workers.names:
        workers.wait_owns(name, after=0)
    with ThreadPoolExecutor(1) as threads:
        sending = threads.submit(send_paced, servers, USAGE_EVENTS, load.messages, args.rate)
        moments = [_restart(workers, name) for name in workers.names]
        time.sleep(_SETTLE_S)
        if sending.done():
            message = f"the load of {args.seconds} s was over before the last restart; give it more --seconds"
            raise RunFailed(message)
        sending.result()
    counted = _wait_counted(servers, len(load.messages))
    restarts = [_figures(moment, counted) for moment in moments]
    differences = check_meterlog(servers, PARTITIONS, {_SHAPE.name: load.expected})
    _report(restarts, args, differences)
    return 1 if differences else 0


class _Moment(NamedTuple):
    worker: str
    began_ms: int
    stopped_ms: int
    back_ms: int


def _restart(workers: Workers, name: str) -> _Moment:
    time.sleep(_SETTLE_S)
    before, began_ms = workers.take_overs(name), _now_ms()
    workers.stop(name)
    stopped_ms = _now_ms()
    workers.start(name)
    workers.wait_owns(name, after=before)
    return _Moment(name, began_ms, stopped_ms, _now_ms())


def _wait_counted(servers: str, count: int) -> list[Counted]:
    """The events of the whole ledger, once everything is folded. Raises RunFailed."""
    progress, deadline_s = Progress(servers, PARTITIONS), time.monotonic() + _CATCH_UP_S
    ends = progress.ends(USAGE_EVENTS)
    while any(progress.committed(FOLD_GROUP, USAGE_EVENTS)[number] < end for number, end in ends.items()):
        if time.monotonic() > deadline_s:
            message = f"not everything was folded within {_CATCH_UP_S:g} s of the load's end"
            raise RunFailed(message)
        time.sleep(0.2)
    found = [each for number in range(PARTITIONS) for each in _counted(servers, number)]
    assert len(found) == count, f"the ledger tells of {len(found)} events, {count} were sent"
    return found


def _counted(servers: str, partition: int) -> Iterator[Counted]:
    """The events of a partition's ledger, repeats included, in order."""
    reader, last_ms = LedgerReader(), 0
    for record in read(servers, LEDGER, partition):
        last_ms = record.append_ms
        yield from _events(partition, reader.feed([record.value or b""]), last_ms)
    yield from _events(partition, reader.flush(), last_ms)


def _events(partition: int, told: Iterable[SourceRecord], counted_ms: int) -> Iterator[Counted]:
    """Genesis and ticks have no key, and are none."""
    return (Counted(partition, each.source.append_ms, counted_ms) for each in told if each.source.key is not None)


def _figures(moment: _Moment, counted: Sequence[Counted]) -> Restart:
    """What was told from the worker's end until it folded again, and for as long after as a take-over may echo."""
    end_ms = moment.back_ms + round(_SETTLE_S * 500)
    here = [each for each in counted if moment.began_ms <= each.counted_ms <= end_ms]
    pauses_s = [_longest_pause_ms(here, number, moment.began_ms, end_ms) / 1_000 for number in range(PARTITIONS)]
    ages_s = [(each.counted_ms - each.sent_ms) / 1_000 for each in here]
    return Restart(
        moment.worker,
        (moment.stopped_ms - moment.began_ms) / 1_000,
        (moment.back_ms - moment.began_ms) / 1_000,
        max(pauses_s),
        max(ages_s, default=0.0),
    )


def _longest_pause_ms(counted: Sequence[Counted], partition: int, began_ms: int, end_ms: int) -> int:
    moments = [began_ms, *sorted({each.counted_ms for each in counted if each.partition == partition}), end_ms]
    return max(after - before for before, after in pairwise(moments))


def _report(restarts: Sequence[Restart], args: argparse.Namespace, differences: Sequence[str]) -> None:
    print(f"{args.rate:,} events/s, {args.workers} workers, {PARTITIONS} partitions, seed {args.seed}")
    print(f"{'restarted':<12} {'stop s':>8} {'back s':>8} {'longest pause s':>16} {'oldest uncounted s':>19}")
    for each in restarts:
        print(
            f"{each.worker:<12} {each.stop_s:>8.2f} {each.back_s:>8.2f} {each.pause_s:>16.2f} {each.age_s_max:>19.2f}"
        )
    for line in differences:
        print(f"DIFFERS {line}")
    if args.json is not None:
        told = {"machine": machine(), "restarts": [each._asdict() for each in restarts], "differences": [*differences]}
        args.json.write_text(json.dumps(told, indent=2))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.rolling", description=__doc__)
    parser.add_argument("--rate", type=int, default=5_000, help="events a second")
    parser.add_argument("--seconds", type=int, default=90, help="how long the load lasts")
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write all figures here")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

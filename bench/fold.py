"""The fold's events/s per core, beside a stock Faust agent on the same broker in the same run: `python -m bench.fold`.

Rounds are interleaved (stock, two, seven, stock, …), each life of a worker is a process of its own on tables that grow from
round to round, and at the end every book is held against what was sent: exit 1 where one differs.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from confluent_kafka.admin import AdminClient, NewTopic

from bench.check import check_meterlog, check_stock
from bench.clock import Cost, Meter, Progress, RunFailed, wait_for
from bench.load import Expected, HeldLoad, Load, Spread, make_load, produce
from bench.report import STOCK, as_json, machine, print_report
from bench.shapes import SHAPES, Shape
from bench.stock_faust import GROUP as STOCK_GROUP
from bench.stock_faust import OUT_TOPIC, SOURCE_TOPIC
from bench.stock_faust import TABLES as STOCK_TABLES
from runtime.embedded.kafka import EmbeddedKafka
from runtime.launch import Process, spawn
from runtime.logs import range_of
from runtime.topics import create_topics
from schemas.topics import FOLD_GROUP, USAGE_EVENTS

__all__ = ["main"]

ROOT = Path(__file__).resolve().parents[1]
PARTITIONS = 4  # as the embedded stack has
_OPERATOR_KEY = bytes(32)  # nothing is signed here
_STOP_WAIT_S = 15.0
_STOCK_WARM_EVENTS = 500


class Bench:
    """A broker, a deployment of meterlog and a stock app on it, and the rounds run on them."""

    def __init__(self, kafka: EmbeddedKafka, folder: Path, args: argparse.Namespace) -> None:
        self._servers = kafka.bootstrap_servers
        assert kafka.pid is not None, "the broker runs"
        self._broker_pid = kafka.pid
        self._folder = folder
        self._args = args
        self._spread = Spread(args.customers, args.models, args.repeats)
        self._rng = random.Random(args.seed)
        self._progress = Progress(self._servers, PARTITIONS)
        self._sent: dict[str, Expected] = defaultdict(Expected)
        create_topics(self._servers, PARTITIONS, 1, _OPERATOR_KEY)
        self._create_stock_topics()

    def meterlog(self, shape: Shape) -> Cost:
        """One life of a worker: started on a warm-up, then measured on a load that is released at once."""
        produce(self._servers, USAGE_EVENTS, self._load(shape, shape.name, self._args.warm_up).messages)
        with self._running("meterlog", "bench.worker", self._worker_variables(shape)) as worker:
            self._wait_folded(worker, self._progress.ends(USAGE_EVENTS))
            load = self._load(shape, shape.name, self._args.events)
            held = HeldLoad(self._servers, USAGE_EVENTS, load.messages)
            ends = self._progress.ends(USAGE_EVENTS)
            meter = Meter(worker, self._broker_pid)
            meter.start()
            held.release()
            self._wait_folded(worker, ends)
            return meter.stop(len(load.messages))

    def stock(self, shape: Shape) -> Cost:
        """One life of the stock agent. Its load lies there when it starts; the clock starts when outputs come."""
        load = self._load(shape, STOCK, _STOCK_WARM_EVENTS + self._args.stock_events)
        before = self._out_count()
        produce(self._servers, SOURCE_TOPIC, load.messages)
        with self._running("stock", "bench.stock_faust", self._stock_variables()) as worker:
            wait_for("stock's start", worker, lambda: self._out_count() >= before + _STOCK_WARM_EVENTS)
            meter = Meter(worker, self._broker_pid)
            began = self._out_count()
            meter.start()
            wait_for("stock's end", worker, lambda: self._out_count() >= before + len(load.messages))
            return meter.stop(before + len(load.messages) - began)

    def differences(self) -> list[str]:
        """What the books say otherwise than was sent."""
        sent = dict(self._sent)
        stock = sent.pop(STOCK, None)
        found = check_meterlog(self._servers, PARTITIONS, sent)
        return found if stock is None else found + check_stock(self._servers, PARTITIONS, stock)

    def _load(self, shape: Shape, subject: str, count: int) -> Load:
        load = make_load(self._rng, shape, count, self._spread, time.time_ns() // 1_000_000)
        self._sent[subject].add(load.expected)
        return load

    def _wait_folded(self, worker: Process, ends: dict[int, int]) -> None:
        wait_for("the fold's end", worker, lambda: self._progress.has_folded(FOLD_GROUP, USAGE_EVENTS, ends))

    def _out_count(self) -> int:
        return sum(self._progress.ends(OUT_TOPIC).values())

    @contextmanager
    def _running(self, name: str, module: str, variables: dict[str, str]) -> Iterator[Process]:
        """A process of `module` for as long as the body runs. What it says is shown when the body fails."""
        log_file = self._folder / f"{name}.log"
        process = spawn([sys.executable, "-m", module], log_file=log_file, env={**os.environ, **variables}, cwd=ROOT)
        try:
            yield process
        except BaseException:
            print(log_file.read_text(errors="replace")[-4_000:], file=sys.stderr)
            raise
        finally:
            _stop(process)

    def _worker_variables(self, shape: Shape) -> dict[str, str]:
        variables = {
            "METERLOG_BOOTSTRAP_SERVERS": self._servers,
            "METERLOG_DATA_DIR": str(self._folder / "meterlog"),
            "METERLOG_PARTITIONS": str(PARTITIONS),
            "METERLOG_REPLICATION": "1",
            # A static member: the next round's worker takes the partitions back at once.
            "METERLOG_WORKER_INSTANCE_ID": "bench",
        }
        if self._args.profile is not None:
            variables["METERLOG_BENCH_PROFILE"] = str(self._args.profile / f"{shape.name}.prof")
        return variables

    def _stock_variables(self) -> dict[str, str]:
        return {
            "BENCH_BROKER": self._servers,
            "BENCH_DATA_DIR": str(self._folder / "stock"),
            "BENCH_PARTITIONS": str(PARTITIONS),
        }

    def _create_stock_topics(self) -> None:
        """Its changelogs, too: Faust would make them as its tables start, and be slower for it in the first round."""
        changelogs = [f"{STOCK_GROUP}-{table}-changelog" for table in STOCK_TABLES]
        wanted = [NewTopic(topic, PARTITIONS, 1) for topic in (SOURCE_TOPIC, OUT_TOPIC)]
        wanted += [NewTopic(topic, PARTITIONS, 1, config={"cleanup.policy": "compact"}) for topic in changelogs]
        admin = AdminClient({"bootstrap.servers": self._servers})  # kept: its end would cancel what it was asked
        for future in admin.create_topics(wanted).values():
            future.result()
        for topic in (SOURCE_TOPIC, OUT_TOPIC):
            for number in range(PARTITIONS):
                range_of(self._servers, topic, number)  # waits until the partition has a leader


def _stop(process: Process) -> None:
    process.terminate()
    try:
        process.wait(_STOP_WAIT_S)
    except Exception:
        process.kill()
        process.wait()
        raise


def main() -> int:
    args = _arguments()
    shapes = [SHAPES[name] for name in args.shapes]
    about = machine()
    try:
        runs, differences = _run(args, shapes)
    except RunFailed as failed:
        print(f"no figures: {failed}; its log ends above", file=sys.stderr)
        return 1
    about["load_average_after"] = round(os.getloadavg()[0], 2)
    print_report(about, _job(args, shapes), runs)
    if args.json is not None:
        args.json.write_text(as_json(about, _settings(args), runs))
    for line in differences:
        print(f"WRONG {line}", file=sys.stderr)
    print("every figure is void: the books differ" if differences else "the ledger, hour totals and Stripe rows hold")
    return 1 if differences else 0


def _run(args: argparse.Namespace, shapes: list[Shape]) -> tuple[dict[str, list[Cost]], list[str]]:
    """All rounds, and where the books differ from what was sent. Raises RunFailed."""
    runs: dict[str, list[Cost]] = defaultdict(list)
    with (
        tempfile.TemporaryDirectory(prefix="meterlog-bench-") as folder,
        EmbeddedKafka(Path(folder) / "kafka") as kafka,
    ):
        bench = Bench(kafka, Path(folder), args)
        for number in range(args.rounds):
            if args.stock_events:
                _note(runs[STOCK], bench.stock(shapes[0]), f"round {number + 1}: {STOCK}")
            for shape in shapes:
                subject = f"meterlog, {len(shape.meters)} meters"
                _note(runs[subject], bench.meterlog(shape), f"round {number + 1}: {subject}")
        return runs, bench.differences()


def _note(costs: list[Cost], cost: Cost, what: str) -> None:
    costs.append(cost)
    print(f"{what}: {cost.events:,} events, {cost.cpu_us_per_event:.1f} µs of CPU each", file=sys.stderr)


def _job(args: argparse.Namespace, shapes: list[Shape]) -> str:
    matched = "; ".join(f"{shape.name}: {', '.join(meter.slug for meter in shape.meters)}" for shape in shapes)
    return (
        f"{args.rounds} rounds, {args.customers:,} customers with {args.models} feature-model pairs each, {args.repeats:.0%} "
        f"repeats, seed {args.seed}\nmeters matched by an event: {matched} (Stripe rows for the first two)\n"
        "meterlog: `meterlog worker` (Avro, dedupe, counters, hour totals, Stripe rows, ledger, transactions); stock: dedupe, "
        "one total, one output, at least once" + (" [under cProfile]" if args.profile else "")
    )


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    return {name: value if isinstance(value, (int, float, list)) else str(value) for name, value in vars(args).items()}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.fold", description=__doc__)
    parser.add_argument("--events", type=int, default=60_000, help="a round of meterlog")
    parser.add_argument("--stock-events", type=int, default=8_000, help="a round of stock Faust; 0 leaves it out")
    parser.add_argument("--warm-up", type=int, default=8_000, help="events before the clock of a round of meterlog")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--customers", type=int, default=5_000)
    parser.add_argument("--models", type=int, default=2, help="feature and model pairs of a customer")
    parser.add_argument("--repeats", type=float, default=0.03, help="part of the events that repeats an earlier one")
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=["two", "seven"])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--profile", type=Path, help="run meterlog under cProfile; a folder for SHAPE.prof")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

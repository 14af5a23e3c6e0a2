"""How fast tables come back from their changelogs, beside stock Faust on the same broker: `python -m bench.recovery`.

Rounds are interleaved: ours onto an empty disk, ours while the log cleaner compacts the same changelogs, stock onto an
empty disk. With --takeovers N: how long a partition stands after its owner's SIGKILL, with a standby and without.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic, ResourceType
from rich.console import Console
from rich.table import Table

from bench.changelogs import make_rows, produce_rows
from bench.clock import RunFailed, wait_for
from bench.report import Figure, machine
from bench.stock_faust import GROUP as STOCK_GROUP
from bench.stock_faust import OUT_TOPIC, SOURCE_TOPIC
from bench.stock_faust import TABLES as STOCK_TABLES
from bench.takeover import time_takeovers
from runtime.embedded.kafka import EmbeddedKafka
from runtime.launch import spawn
from runtime.topics import create_topics
from schemas.topics import ACCOUNTS_CHANGELOG, SEEN_CHANGELOG

__all__ = ["main"]

ROOT = Path(__file__).resolve().parents[1]
PARTITIONS = 4
CHANGELOGS = {"accounts": ACCOUNTS_CHANGELOG, "seen": SEEN_CHANGELOG}
_CLEANING = {"segment.bytes": str(4 << 20), "min.cleanable.dirty.ratio": "0.01", "max.compaction.lag.ms": "1000"}
_STOCK_BEGINS, _STOCK_ENDS = "Highwater for active", "Recovery complete"


class Bench:
    """A broker with both changelogs, and one recovery after another."""

    def __init__(self, kafka: EmbeddedKafka, folder: Path, args: argparse.Namespace) -> None:
        self._servers = kafka.bootstrap_servers
        self._folder = folder
        self._args = args
        self._admin = AdminClient({"bootstrap.servers": self._servers, "log_level": 0})
        create_topics(self._servers, PARTITIONS, 1, bytes(32))
        self.size_bytes = produce_rows(self._servers, CHANGELOGS, make_rows(args.rows, PARTITIONS, args.seed))
        if args.stock_rows:
            self._make_stock(args.stock_rows)

    def ours(self) -> float:
        """Rows a second."""
        with tempfile.TemporaryDirectory(dir=self._folder) as disk:
            argv = [sys.executable, "-m", "bench.recover", self._servers, disk, str(PARTITIONS)]
            told = json.loads(subprocess.run(argv, check=True, capture_output=True, text=True, cwd=ROOT).stdout)
        return float(told["records"] / told["wall_s"])

    def stock(self) -> float:
        """Rows a second, from the first question for a changelog's end until the tables are there."""
        log_file, disk = self._folder / "stock.log", self._folder / "stock"
        variables = {"BENCH_BROKER": self._servers, "BENCH_DATA_DIR": str(disk), "BENCH_PARTITIONS": str(PARTITIONS)}
        process = spawn(
            [sys.executable, "-m", "bench.stock_faust"], log_file=log_file, env={**os.environ, **variables}, cwd=ROOT
        )
        try:
            wait_for("stock's recovery", process, lambda: _STOCK_BEGINS in log_file.read_text(errors="replace"))
            began = time.perf_counter()
            wait_for("stock's recovery to end", process, lambda: _STOCK_ENDS in log_file.read_text(errors="replace"))
            return float(self._args.stock_rows / (time.perf_counter() - began))
        finally:
            process.kill()
            process.wait()
            log_file.unlink()
            shutil.rmtree(disk, ignore_errors=True)

    def start_cleaning(self) -> None:
        """The cleaner goes over the changelogs again and again, from here on; every row is there twice for it."""
        produce_rows(self._servers, CHANGELOGS, make_rows(self._args.rows, PARTITIONS, self._args.seed))
        resources = [
            ConfigResource(
                ResourceType.TOPIC,
                topic,
                incremental_configs=[
                    ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
                    for name, value in _CLEANING.items()
                ],
            )
            for topic in CHANGELOGS.values()
        ]
        for future in self._admin.incremental_alter_configs(resources).values():
            future.result()

    def _make_stock(self, count: int) -> None:
        """Its own changelogs, without transactions: it would wait for ever for the record that a marker is not."""
        changelogs = {table: f"{STOCK_GROUP}-{table}-changelog" for table in STOCK_TABLES}
        wanted = [NewTopic(topic, PARTITIONS, 1) for topic in (SOURCE_TOPIC, OUT_TOPIC)]
        wanted += [
            NewTopic(topic, PARTITIONS, 1, config={"cleanup.policy": "compact"}) for topic in changelogs.values()
        ]
        for future in self._admin.create_topics(wanted).values():
            future.result()
        producer = Producer({"bootstrap.servers": self._servers, "linger.ms": 50, "log_level": 0})
        for row in make_rows(count, PARTITIONS, self._args.seed):
            table = STOCK_TABLES[0 if row.table == "seen" else 1]
            key = json.dumps(row.key[1:].decode("latin-1"))
            producer.produce(changelogs[table], b"%d" % len(row.value), key.encode(), partition=row.partition)
            producer.poll(0)
        producer.flush()


def main() -> int:
    args = _arguments()
    about = machine()
    try:
        figures = _run(args)
    except RunFailed as failed:
        print(f"no figures: {failed}", file=sys.stderr)
        return 1
    about["load_average_after"] = round(os.getloadavg()[0], 2)
    _print(about, args, figures)
    if args.json is not None:
        args.json.write_text(json.dumps({"machine": about, "rounds": figures}, indent=2))
    return 0


def _run(args: argparse.Namespace) -> dict[str, list[float]]:
    figures: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="meterlog-bench-") as folder:
        if args.rounds:
            with EmbeddedKafka(Path(folder) / "kafka", overrides={"log.cleaner.backoff.ms": 100}) as kafka:
                _rounds(Bench(kafka, Path(folder), args), args, figures)
        for standbys in (0, 1) if args.takeovers else ():
            with EmbeddedKafka(Path(folder) / f"kafka-{standbys}") as kafka:
                rows = make_rows(args.rows, PARTITIONS, args.seed)
                for seconds in time_takeovers(kafka.bootstrap_servers, Path(folder), rows, standbys, args.takeovers):
                    _note(figures, f"from SIGKILL to the next commit, {standbys} standbys: s", seconds)
    return figures


def _rounds(bench: Bench, args: argparse.Namespace, figures: dict[str, list[float]]) -> None:
    for _ in range(args.rounds):
        _note(figures, "meterlog: rows/s", bench.ours())
        if args.stock_rows:
            _note(figures, "stock faust: rows/s", bench.stock())
    bench.start_cleaning()
    for _ in range(args.rounds):
        _note(figures, "meterlog, cleaner running: rows/s", bench.ours())


def _note(figures: dict[str, list[float]], what: str, value: float) -> None:
    figures[what].append(value)
    print(f"{what} {value:,.1f}", file=sys.stderr)


def _print(about: dict[str, object], args: argparse.Namespace, figures: dict[str, list[float]]) -> None:
    console = Console(width=150, highlight=False)
    console.print(", ".join(f"{name} {value}" for name, value in about.items()))
    table = Table("", "min / median / max of the rounds", title=f"{args.rows:,} rows ({args.stock_rows:,} for stock)")
    for what, values in figures.items():
        table.add_row(what, Figure.of(values).text(1 if what.endswith(": s") else 0))
    console.print(table)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.recovery", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--stock-rows", type=int, default=100_000, help="0 leaves stock out")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--takeovers", type=int, default=0, help="owners killed, with and without a standby")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

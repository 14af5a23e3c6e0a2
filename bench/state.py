"""What a million events leave behind: rows on disk and records on the changelogs. `python -m bench.state`; no broker needed.

The fold of `meterlog worker` writes its epochs into RocksDB as a worker does; sizes are taken after a compaction, which
disks come to by themselves.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from bench.load import Message, Spread, make_load
from bench.report import machine
from bench.shapes import SHAPES, bench_catalog
from billing.records import Genesis
from schemas.codec import encode
from streams.edges import Applied
from streams.overlay import PartitionRows
from streams.tables import TableFiles
from streams.usage import UsageFold

__all__ = ["main"]

_RECORDS_PER_EPOCH = 500  # what 5,000 events a second come to on 4 partitions in 100 ms, some four times over
_RECORD_BYTES = 9  # of a record on a topic beside its key and value: lengths, offset and time deltas
_MILLION = 1_000_000
_CACHE_BYTES = 64 << 20


class OnLog(NamedTuple):
    offset: int
    key: bytes | None
    value: bytes | None
    timestamp: int
    headers: tuple[tuple[str, bytes], ...] = ()


class Sizes(NamedTuple):
    """Of one table, for the events that were folded."""

    rows: int
    disk_bytes: int
    changelog_records: int
    changelog_bytes: int
    """Before the cleaner, and before a producer's compression."""


def measure(folder: Path, messages: Sequence[Message], began_ms: int) -> dict[str, Sizes]:
    tables = TableFiles(folder, _CACHE_BYTES).of_partition(0)
    fold = UsageFold(bench_catalog()).open(0, PartitionRows(tables))
    records: Counter[str] = Counter()
    written_bytes: Counter[str] = Counter()
    for epoch in _epochs(messages, began_ms):
        fold.fold(epoch, epoch[-1].timestamp)
        for table, rows in fold.take().rows.items():
            tables[table].apply(rows.items(), Applied(records[table], began_ms))
            records[table] += len(rows)
            written_bytes[table] += sum(len(key) + len(value or b"") + _RECORD_BYTES for key, value in rows.items())
    return {name: Sizes(*table.sizes(), records[name], written_bytes[name]) for name, table in tables.items()}


def _epochs(messages: Sequence[Message], now_ms: int) -> Iterator[list[OnLog]]:
    yield [OnLog(0, None, encode(Genesis("bench", 1, 1, bytes(32))), now_ms)]
    for start in range(0, len(messages), _RECORDS_PER_EPOCH):
        part = messages[start : start + _RECORDS_PER_EPOCH]
        yield [OnLog(start + number, key, value, now_ms) for number, (key, value) in enumerate(part, 1)]


def main() -> int:
    args = _arguments()
    rng, now_ms = random.Random(args.seed), time.time_ns() // 1_000_000
    load = make_load(rng, SHAPES[args.shape], args.events, Spread(args.customers, args.models, 0.0), now_ms)
    with tempfile.TemporaryDirectory(prefix="meterlog-bench-") as folder:
        sizes = measure(Path(folder), load.messages, now_ms)
    console = Console(width=130, highlight=False)
    console.print(", ".join(f"{name} {value}" for name, value in machine().items()))
    table = Table(
        "table", title=f"{args.events:,} events of shape {args.shape}, {args.customers:,} customers; per million events"
    )
    for name in ("rows", "MB on disk", "bytes a row on disk", "changelog records", "changelog MB"):
        table.add_column(name, justify="right")
    scale = _MILLION / args.events
    for name, each in sizes.items():
        table.add_row(
            name,
            f"{each.rows * scale:,.0f}",
            f"{each.disk_bytes * scale / 1e6:,.1f}",
            f"{each.disk_bytes / max(1, each.rows):,.0f}",
            f"{each.changelog_records * scale:,.0f}",
            f"{each.changelog_bytes * scale / 1e6:,.1f}",
        )
    console.print(table)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.state", description=__doc__)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--customers", type=int, default=5_000)
    parser.add_argument("--models", type=int, default=2, help="feature and model pairs of a customer")
    parser.add_argument("--shape", choices=list(SHAPES), default="builtin")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

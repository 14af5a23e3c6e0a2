"""Runs `meterlog replay` against a deployment: reads ledger and totals, shows progress, prints the first difference."""

import json
import time
from contextlib import closing
from functools import partial
from typing import Any, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from billing.catalog.types import Catalog
from billing.errors import UnknownBehaviour
from runtime.errors import CommandError
from runtime.ledger_log import raw_records
from runtime.logs import explained, partitions_of, range_of, read
from runtime.replay import PartitionReplay, TotalsBook, replay_partition
from schemas.ledger import LedgerGap
from schemas.topics import LEDGER, USAGE_TOTALS

__all__ = ["print_replay", "run_replay"]

_MARKERS_S: Final = 5.0
"""How long a transaction may show on `ledger` before it shows on `usage-totals`: its markers are written one by one."""


def run_replay(
    bootstrap_servers: str, catalog: Catalog, partition: int | None, console: Console
) -> list[PartitionReplay]:
    """Fold what the ledger holds now again, partition by partition. Raises CommandError where it cannot be read."""
    with explained(bootstrap_servers):
        count = partitions_of(bootstrap_servers, LEDGER)
        if partition is not None and partition >= count:
            message = f"--partition: the ledger has the partitions 0 to {count - 1}"
            raise CommandError(message)
        wanted = range(count) if partition is None else [partition]
        columns = (TextColumn("partition {task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as progress:
            return [_replay(bootstrap_servers, catalog, number, progress) for number in wanted]


def print_replay(found: list[PartitionReplay], *, as_json: bool) -> None:
    """What was compared, and each partition's first difference."""
    if as_json:
        typer.echo(
            json.dumps(
                {"same": not any(p.difference for p in found), "partitions": [_as_json(p) for p in found]}, indent=2
            )
        )
        return
    for line in found:
        verdict = "the same" if line.difference is None else "DIFFERS"
        typer.echo(
            f"partition {line.partition}: {line.records} records, {line.facts} facts, {line.totals} totals: {verdict}"
        )
        if line.difference is not None:
            typer.echo(json.dumps(line.difference._asdict(), indent=2, ensure_ascii=False))


def _replay(bootstrap_servers: str, catalog: Catalog, partition: int, progress: Progress) -> PartitionReplay:
    """One partition. A difference of totals alone is looked at again: a commit shows on one topic after the other."""
    deadline_s = time.monotonic() + _MARKERS_S
    while True:
        held = range_of(bootstrap_servers, LEDGER, partition)
        task = progress.add_task(str(partition), total=held.end - held.start)
        book = TotalsBook.of(_last_values(bootstrap_servers, partition))
        try:
            with closing(read(bootstrap_servers, LEDGER, partition, held.start, held.end)) as ledger:
                found = replay_partition(catalog, partition, raw_records(ledger), book, partial(progress.advance, task))
        except (LedgerGap, UnknownBehaviour) as exc:
            message = f"ledger/{partition} cannot be folded again: {exc}"
            raise CommandError(message) from exc
        progress.remove_task(task)
        is_of_totals = found.difference is not None and found.difference.where.startswith(USAGE_TOTALS)
        if not is_of_totals or time.monotonic() > deadline_s:
            return found


def _last_values(bootstrap_servers: str, partition: int) -> dict[bytes, bytes]:
    """Each row's last value on `usage-totals`."""
    held = range_of(bootstrap_servers, USAGE_TOTALS, partition)
    with closing(read(bootstrap_servers, USAGE_TOTALS, partition, held.start)) as records:
        return {record.key: record.value for record in records if record.key is not None and record.value is not None}


def _as_json(line: PartitionReplay) -> dict[str, Any]:
    return {
        "partition": line.partition,
        "records": line.records,
        "facts": line.facts,
        "totals": line.totals,
        "first": None if line.first is None else [line.first.incarnation, line.first.offset],
        "last": None if line.last is None else [line.last.incarnation, line.last.offset],
        "difference": None if line.difference is None else line.difference._asdict(),
    }

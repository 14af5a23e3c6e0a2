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
from billing.errors import InvalidField, UnknownBehaviour
from billing.facts import SnapshotBegun
from runtime.errors import CommandError
from runtime.ledger_log import raw_records, source_records, source_records_since
from runtime.logs import Range, explained, offset_at, partitions_of, range_of, read
from runtime.replay import PartitionReplay, SnapshotUnfit, TotalsBook, replay_partition
from schemas.ledger import LedgerGap
from schemas.timestamps import parse_timestamp
from schemas.topics import LEDGER, USAGE_TOTALS

__all__ = ["print_replay", "run_replay"]

_SLACK_MS: Final = 60 * 60_000
_MARKERS_S: Final = 5.0
"""How long a transaction may show on `ledger` before it shows on `usage-totals`: its markers are written one by one."""


def run_replay(
    bootstrap_servers: str, catalog: Catalog, partition: int | None, console: Console, month: str | None = None
) -> list[PartitionReplay]:
    """Fold what the ledger holds now again, partition by partition: from its genesis, or from the snapshot of `month` (2026-11).

    Raises CommandError where it cannot be read, or has no such snapshot.
    """
    month_s = None if month is None else _month_s(month)
    with explained(bootstrap_servers):
        count = partitions_of(bootstrap_servers, LEDGER)
        if partition is not None and partition >= count:
            message = f"--partition: the ledger has the partitions 0 to {count - 1}"
            raise CommandError(message)
        wanted = range(count) if partition is None else [partition]
        columns = (TextColumn("partition {task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as progress:
            return [_replay(bootstrap_servers, catalog, number, progress, month_s) for number in wanted]


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


def _replay(
    bootstrap_servers: str, catalog: Catalog, partition: int, progress: Progress, month_s: int | None
) -> PartitionReplay:
    """One partition. A difference of totals alone is looked at again: a commit shows on one topic after the other."""
    start = None if month_s is None else _snapshot(bootstrap_servers, partition, month_s)
    deadline_s = time.monotonic() + _MARKERS_S
    while True:
        held = range_of(bootstrap_servers, LEDGER, partition)
        first = held.start if start is None else _first_needed(bootstrap_servers, partition, start, held)
        task = progress.add_task(str(partition), total=held.end - first)
        book = TotalsBook.of(_last_values(bootstrap_servers, partition))
        try:
            with closing(read(bootstrap_servers, LEDGER, partition, first, held.end)) as ledger:
                advance = partial(progress.advance, task)
                found = replay_partition(catalog, partition, raw_records(ledger), book, advance, start)
        except (LedgerGap, SnapshotUnfit, UnknownBehaviour) as exc:
            message = f"ledger/{partition} cannot be folded again: {exc}"
            raise CommandError(message) from exc
        progress.remove_task(task)
        is_of_totals = found.difference is not None and found.difference.where.startswith(USAGE_TOTALS)
        if not is_of_totals or time.monotonic() > deadline_s:
            return found


def _month_s(month: str) -> int:
    """`2026-11` as its first moment in UTC. Raises CommandError."""
    try:
        return parse_timestamp("--from", f"{month}-01T00:00:00Z") // 1_000_000
    except InvalidField as exc:
        message = f"--from: {month[:20]!r} is no month; give one as 2026-11"
        raise CommandError(message) from exc


def _snapshot(bootstrap_servers: str, partition: int, month_s: int) -> SnapshotBegun:
    """Where the month's snapshot begins. Raises CommandError where there is none."""
    with closing(source_records_since(bootstrap_servers, partition, month_s * 1_000 - _SLACK_MS)) as records:
        for told in records:
            for fact in told.facts:
                if isinstance(fact, SnapshotBegun) and fact.month_start_s == month_s:
                    return fact
    message = (
        f"ledger/{partition} has no snapshot of that month: a month's is written at its first tick, and none in the month "
        "of the genesis; give another month, or fold again from the genesis, without --from"
    )
    raise CommandError(message)


def _first_needed(bootstrap_servers: str, partition: int, start: SnapshotBegun, held: Range) -> int:
    """The ledger's offset from which to read: facts are written after log time, by a clock that may differ a little.

    What is read must begin before `since_ms`; where clocks differ more, the whole ledger is read.
    """
    first = offset_at(bootstrap_servers, LEDGER, partition, start.since_ms - _SLACK_MS) or held.start
    with closing(source_records(bootstrap_servers, partition, first, held.end)) as records:
        told = next(records, None)
    return first if told is not None and told.log_ms < start.since_ms else held.start


def _last_values(bootstrap_servers: str, partition: int) -> dict[bytes, bytes]:
    """Each row's last value on `usage-totals`."""
    held = range_of(bootstrap_servers, USAGE_TOTALS, partition)
    with closing(read(bootstrap_servers, USAGE_TOTALS, partition, held.start)) as records:
        return {record.key: record.value for record in records if record.key is not None and record.value is not None}


def _as_json(line: PartitionReplay) -> dict[str, Any]:
    return {
        "partition": line.partition,
        "rebuilt": line.rebuilt,
        "records": line.records,
        "facts": line.facts,
        "totals": line.totals,
        "first": None if line.first is None else [line.first.incarnation, line.first.offset],
        "last": None if line.last is None else [line.last.incarnation, line.last.offset],
        "difference": None if line.difference is None else line.difference._asdict(),
    }

"""`meterlog dead-letters`: reads the letters, and appends their records to the log again."""

import heapq
import json
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import typer
from confluent_kafka import KafkaError, Message, Producer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from billing.catalog.types import Catalog
from billing.records import Position
from runtime.errors import BrokerError, CommandError
from runtime.ledger_log import find_record
from runtime.letters import (
    REPLAY_HEADER,
    Letter,
    LetterId,
    Original,
    Prospect,
    Selection,
    Verdict,
    describe,
    home_of,
    prospect_of,
    summarise,
)
from runtime.logs import explained, partitions_of, range_of, read
from schemas.codec import DeadLetter, LetterReplayed, decode, encode
from schemas.topics import DEAD_LETTERS, USAGE_EVENTS

__all__ = [
    "Replayed",
    "list_letters",
    "print_letter",
    "print_letters",
    "print_replayed",
    "replay_letters",
    "show_letter",
]

_TIMEOUT_S: Final = 15.0
_TRANSACTION_MS: Final = 10_000
"""What the brokers allow (`transaction.max.timeout.ms`); a batch takes a fraction of a second."""
_BATCH_LETTERS: Final = 500
_BATCH_BYTES: Final = 4 << 20
_TRANSACTIONAL_ID: Final = "meterlog-dead-letters"
"""Fixed: a second replay fences the first, and a killed one's half is aborted by the next."""
_PACKED_BYTES_MAX: Final = (
    1_000_000_000  # of a batch before it is packed; the topic's own limit is on what it is packed
)


@dataclass(slots=True)
class Replayed:
    """What became of the letters that were selected."""

    replayed: list[tuple[LetterId, int]] = field(default_factory=list)
    """Each with the partition that its record went to; in a dry run, would go to."""
    already: list[LetterId] = field(default_factory=list)
    """Replayed before, and left alone."""
    left_out: list[tuple[LetterId, str]] = field(default_factory=list)
    """They would only be refused again; each with the reason."""
    dry_run: bool = False

    @property
    def complete(self) -> bool:
        return not self.left_out


class _Ready(NamedTuple):
    """A letter whose record is about to be appended again."""

    id: LetterId
    original: Original
    to_partition: int


def list_letters(bootstrap_servers: str, selection: Selection, limit: int) -> tuple[list[Letter], int]:
    """The newest `limit` of the letters that are meant, newest last, and how many there are in all."""
    newest: list[tuple[int, LetterId, DeadLetter]] = []
    marks: dict[LetterId, tuple[int, int]] = {}
    count = 0
    for record in _records(bootstrap_servers):
        if isinstance(record, LetterReplayed):
            marks[_marked(record)] = (record.to_partition, record.to_offset)
        elif selection.takes(record):
            count += 1
            # The ids differ, so two letters are never compared themselves.
            heapq.heappush(newest, (record.append_ms, Letter(record).id, record))
            if len(newest) > limit:
                heapq.heappop(newest)
    return [Letter(letter, marks.get(letter_id)) for _, letter_id, letter in sorted(newest)], count


def show_letter(bootstrap_servers: str, letter_id: LetterId, catalog: Catalog, now_ms: int) -> dict[str, Any]:
    """All that can be said of one letter. Raises CommandError where there is none, or two of that position."""
    found, _ = list_letters(bootstrap_servers, Selection(ids=(letter_id,)), 2)
    if not found:
        raise CommandError(_no_such([letter_id]))
    if len(found) > 1:
        message = f"{letter_id} names a letter of each incarnation of the log; give INCARNATION/PARTITION/OFFSET"
        raise CommandError(message)
    (letter,) = found
    original = original_of(bootstrap_servers, letter.letter)
    count = partitions_of(bootstrap_servers, USAGE_EVENTS)
    return describe(letter, original, prospect_of(letter.letter, original, catalog, count, now_ms))


def replay_letters(
    bootstrap_servers: str,
    selection: Selection,
    catalog: Catalog,
    now_ms: Callable[[], int],
    console: Console,
    *,
    dry_run: bool = False,
    again: bool = False,
) -> Replayed:
    """Append the records of the selected letters to `usage-events` again, each where its key belongs.

    Appended records and the marks that say so are one transaction a batch: killed at any moment, a letter was replayed and
    says so, or neither. Left out: what would only be refused again, and, unless `again`, what was replayed before. Raises
    CommandError for an id that no letter has, before anything is appended, and BrokerError.
    """
    with explained(bootstrap_servers):
        count = partitions_of(bootstrap_servers, USAGE_EVENTS)
        # Before the marks are read: from here on no other replay can commit, so none of its marks is missed.
        producer = None if dry_run else open_producer(bootstrap_servers)
        marked, total = _survey(bootstrap_servers, selection)
        done = Replayed(dry_run=dry_run)
        batch: list[_Ready] = []
        with Progress(console=console, transient=True) as progress:
            task = progress.add_task("replaying", total=total)
            for letter in _selected(bootstrap_servers, selection):
                progress.advance(task)
                ready = _prepare(bootstrap_servers, letter, catalog, count, now_ms(), marked, done, again=again)
                if ready is None:
                    continue
                batch.append(ready)
                if producer and (len(batch) >= _BATCH_LETTERS or _size(batch) >= _BATCH_BYTES):
                    append_again(producer, batch, now_ms())
                    batch = []
            if producer and batch:
                append_again(producer, batch, now_ms())
        return done


def open_producer(bootstrap_servers: str) -> Producer:
    """The one producer that may replay; an unfinished transaction of an earlier one is aborted."""
    producer = Producer(
        {
            "bootstrap.servers": bootstrap_servers,
            "client.id": "meterlog-dead-letters",
            "transactional.id": _TRANSACTIONAL_ID,
            "transaction.timeout.ms": _TRANSACTION_MS,
            "compression.type": "zstd",  # a letter may come from a producer that packed it to get it through
            "message.max.bytes": _PACKED_BYTES_MAX,
            "log_level": 0,
        }
    )
    producer.init_transactions(_TIMEOUT_S)
    return producer


def append_again(producer: Producer, batch: list[_Ready], now_ms: int) -> None:
    """One transaction: the records to `usage-events`, then on `dead-letters` where each one lies now.

    Raises BrokerError where a record is not taken; then none of the batch is.
    """
    producer.begin_transaction()
    try:
        marks = append_records(producer, batch, now_ms)
        append_marks(producer, marks)
        producer.commit_transaction(_TIMEOUT_S)
    except BrokerError:
        producer.abort_transaction(_TIMEOUT_S)
        raise


def append_records(producer: Producer, batch: list[_Ready], now_ms: int) -> list[LetterReplayed]:
    """The records, appended; the marks that tell of it."""
    marks: list[LetterReplayed] = []
    refused: list[tuple[LetterId, str]] = []
    for ready in batch:

        def note(error: KafkaError | None, message: Message, letter_id: LetterId = ready.id) -> None:
            if error is not None:
                refused.append((letter_id, error.str()))
                return
            to_partition, to_offset = message.partition(), message.offset()
            assert to_partition is not None, "an acknowledged record lies on a partition"
            assert to_offset is not None, "and at an offset"
            assert letter_id.incarnation is not None, "a letter's own id is whole"
            marks.append(LetterReplayed(*letter_id, to_partition, to_offset, now_ms))  # type: ignore[arg-type]

        key, value, headers = ready.original
        named = [*headers, (REPLAY_HEADER, str(ready.id).encode())]
        producer.produce(USAGE_EVENTS, value, key, ready.to_partition, note, headers=named)
    producer.flush(_TIMEOUT_S)
    if refused or len(marks) < len(batch):
        letter_id, why = refused[0] if refused else (batch[0].id, f"no acknowledgement within {_TIMEOUT_S:.0f} s")
        message = f"the record of dead letter {letter_id} is not taken: {why}; none of its batch was appended"
        raise BrokerError(message)
    return marks


def append_marks(producer: Producer, marks: list[LetterReplayed]) -> None:
    """What says that letters were replayed, each beside its letter."""
    for mark in marks:
        producer.produce(DEAD_LETTERS, encode(mark), str(_marked(mark)).encode(), mark.partition)


def original_of(bootstrap_servers: str, letter: DeadLetter) -> Original:
    """The letter's record, whole: from the ledger where the letter had to cut it. Raises CommandError."""
    if not letter.is_cut:
        return Original(letter.key, letter.value, tuple((header.name, header.value) for header in letter.headers))
    position = Position(letter.incarnation, letter.partition, letter.offset)
    told = find_record(bootstrap_servers, position, letter.append_ms)
    if told is None:
        message = f"the ledger has no record {Letter(letter).id}, of which the dead letter holds only the beginning"
        raise CommandError(message)
    return Original(told.source.key, told.source.value, told.source.headers)


def print_letters(letters: list[Letter], count: int, *, as_json: bool) -> None:
    """The list, newest last."""
    lines = [summarise(letter) for letter in letters]
    if as_json:
        typer.echo(json.dumps({"count": count, "letters": lines}, indent=2))
        return
    console = Console()
    table = Table("id", "reason", "appended", "key", "event id", "replayed to", "why", box=None)
    for line in lines:
        names = ("id", "reason", "appended_at", "key", "event_id", "replayed_to", "message")
        table.add_row(*((line[name] or "")[:120] for name in names))
    console.print(table)
    console.out(f"{len(letters)} of {count} dead letters", highlight=False)


def print_letter(found: dict[str, Any], *, as_json: bool) -> None:
    """All of one letter."""
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    for name, value in found.items():
        if value is not None:
            shown = value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)
            typer.echo(f"{name.replace('_', ' ')}: {shown}")


def print_replayed(done: Replayed, *, as_json: bool) -> None:
    """What was appended again, and what was left out and why."""
    if as_json:
        found = {
            "dry_run": done.dry_run,
            "replayed": [{"id": str(i), "to_partition": partition} for i, partition in done.replayed],
            "already_replayed": [str(i) for i in done.already],
            "left_out": [{"id": str(i), "message": message} for i, message in done.left_out],
        }
        typer.echo(json.dumps(found, indent=2))
        return
    for letter_id, message in done.left_out:
        typer.echo(f"{letter_id} left out: {message}")
    verb = "would be replayed" if done.dry_run else "replayed"
    typer.echo(
        f"{len(done.replayed)} {verb}, {len(done.already)} were replayed before, "
        f"{len(done.left_out)} left out, which would be refused again"
    )


def _prepare(
    bootstrap_servers: str,
    letter: DeadLetter,
    catalog: Catalog,
    partition_count: int,
    now_ms: int,
    marked: set[LetterId],
    done: Replayed,
    *,
    again: bool,
) -> _Ready | None:
    """The letter's record with its new place, noted as done; None, with the reason noted, when it is left out."""
    letter_id = Letter(letter).id
    if letter_id in marked and not again:
        done.already.append(letter_id)
        return None
    original = original_of(bootstrap_servers, letter)
    prospect: Prospect = prospect_of(letter, original, catalog, partition_count, now_ms)
    if prospect.verdict is Verdict.REFUSED:
        done.left_out.append((letter_id, prospect.message))
        return None
    ready = _Ready(letter_id, original, home_of(original, letter, partition_count))
    done.replayed.append((letter_id, ready.to_partition))
    return ready


def _survey(bootstrap_servers: str, selection: Selection) -> tuple[set[LetterId], int]:
    """The letters that were replayed before, and how many are selected. Raises CommandError for an unknown id."""
    marked: set[LetterId] = set()
    found: set[tuple[int, int]] = set()
    count = 0
    for record in _records(bootstrap_servers):
        if isinstance(record, LetterReplayed):
            marked.add(_marked(record))
        elif selection.takes(record):
            count += 1
            if selection.ids:
                found.add((record.partition, record.offset))
    missing = [i for i in selection.ids if (i.partition, i.offset) not in found]
    if missing:
        raise CommandError(_no_such(missing))
    return marked, count


def _selected(bootstrap_servers: str, selection: Selection) -> Iterator[DeadLetter]:
    for record in _records(bootstrap_servers):
        if isinstance(record, DeadLetter) and selection.takes(record):
            yield record


def _records(bootstrap_servers: str) -> Iterator[DeadLetter | LetterReplayed]:
    """All that lies on `dead-letters` now. Up to the ends that are found first: what is replayed may be refused again."""
    ends = [
        range_of(bootstrap_servers, DEAD_LETTERS, partition)
        for partition in range(partitions_of(bootstrap_servers, DEAD_LETTERS))
    ]
    for partition, held in enumerate(ends):
        if held.start == held.end:
            continue
        with closing(read(bootstrap_servers, DEAD_LETTERS, partition, held.start, held.end)) as records:
            for record in records:
                found = decode(record.value)
                if isinstance(found, (DeadLetter, LetterReplayed)):
                    yield found


def _marked(mark: LetterReplayed) -> LetterId:
    return LetterId(mark.incarnation, mark.partition, mark.offset)


def _no_such(ids: list[LetterId]) -> str:
    names = ", ".join(str(letter_id) for letter_id in ids[:20])
    return f"no dead letter lies at {names}; `meterlog dead-letters list` shows those of the past 90 days"


def _size(batch: list[_Ready]) -> int:
    return sum(len(ready.original.key or b"") + len(ready.original.value or b"") for ready in batch)

"""The fold of usage events over a store: the same as the pure rules in memory, however the log is cut into epochs."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import pytest

from billing.catalog.builtin import BUILTIN_CATALOG, LLM_CALL
from billing.errors import NoGenesis
from billing.facts import EventCounted, EventDuplicate, GenesisRefused
from billing.fold import decide, evolve
from billing.records import Genesis, Logged, Position, Record, Tick, UsageEvent
from billing.state import MemoryState
from runtime.ledger_log import raw_records, whole_records
from runtime.logs import LogRecord
from runtime.replay import TotalsBook, replay_partition
from schemas.codec import decode, decode_record, encode
from schemas.ledger import LedgerReader
from schemas.totals import HourTotal, decode_total
from streams.port import Epoch, PartitionFold, Stop
from streams.usage import UsageFold
from tests.streams.memory_store import MemoryStore

DAY_MS = 86_400_000
START_MS = 1_763_712_000_000 - 1_763_712_000_000 % DAY_MS
GENESIS = Genesis("deployment", 1, 1, b"k" * 32)


@dataclass(frozen=True)
class OnLog:
    offset: int
    key: bytes | None
    value: bytes | None
    timestamp: int
    headers: tuple[tuple[str, bytes], ...] = field(default=())


def event(number: int, customer: str, occurred_ms: int, **fields: object) -> tuple[bytes, bytes]:
    made = UsageEvent(f"id-{number}", occurred_ms * 1_000, customer, event_type=LLM_CALL, **fields)  # type: ignore[arg-type]
    return f"acme/{customer}".encode(), encode(made)


def history(rng: random.Random) -> list[OnLog]:
    """Three days of events, repeats, garbage and ticks, with holes between the offsets as transaction markers leave them."""
    log = [OnLog(0, None, encode(GENESIS), START_MS)]
    sent: list[tuple[bytes, bytes]] = []
    for number in range(400):
        now_ms = START_MS + number * 3 * DAY_MS // 400
        choice = rng.random()
        if choice < 0.1 and sent:
            key, value = rng.choice(sent)
        elif choice < 0.15:
            key, value = b"acme/c-1", rng.randbytes(20)
        elif choice < 0.2:
            key, value = b"", encode(Tick(now_ms))
        else:
            tokens = {"input_tokens": rng.randrange(5_000), "output_tokens": rng.randrange(500)}
            key, value = event(number, f"c-{rng.randrange(5)}", now_ms - rng.randrange(7_200_000), **tokens)
            sent.append((key, value))
        log.append(OnLog(log[-1].offset + rng.choice((1, 1, 2)), key or None, value, now_ms))
    return log


def fold_all(log: Sequence[OnLog], store: MemoryStore) -> Epoch:
    """One epoch of one life of the fold."""
    fold = UsageFold(BUILTIN_CATALOG).open(0, store)
    fold.fold(log, now_ms=log[-1].timestamp)
    return fold.take()


def run(log: list[OnLog], cuts: list[int]) -> tuple[list[bytes], dict[bytes, bytes], MemoryStore]:
    """The ledger, the last totals and the store after folding `log` in epochs cut at `cuts`, each by a new process."""
    store, ledger, totals = MemoryStore(), list[bytes](), dict[bytes, bytes]()
    for start, stop in zip([0, *cuts], [*cuts, len(log)], strict=True):
        if start < stop:
            epoch = fold_all(log[start:stop], store)
            store.apply(epoch)
            ledger += [value for _, value in epoch.ledger]
            totals |= epoch.totals
    return ledger, totals, store


@pytest.mark.parametrize("seed", range(5))
def test_epochs_cut_anywhere_give_the_same_ledger_and_rows(seed: int) -> None:
    rng = random.Random(seed)
    log = history(rng)
    whole = run(log, [])
    pieces = run(log, sorted(rng.sample(range(1, len(log)), 25)))
    assert pieces[0] == whole[0]
    assert pieces[1] == whole[1]
    assert pieces[2].tables == whole[2].tables


@pytest.mark.parametrize("seed", range(5))
def test_the_ledger_says_what_the_pure_rules_say(seed: int) -> None:
    log = history(random.Random(seed))
    state, expected = MemoryState(), []
    for on_log in log:
        record: Record = decode_record(on_log.value)
        position = Position(1, 0, on_log.offset)
        facts = decide(state, BUILTIN_CATALOG, Logged(record, on_log.key, on_log.timestamp), position)
        for fact in facts:
            evolve(state, BUILTIN_CATALOG, fact, position, on_log.timestamp)
        expected.append((on_log.offset, tuple(facts)))
    reader = LedgerReader()
    told = [*reader.feed(run(log, [100, 250])[0]), *reader.flush()]
    assert [(record.position.offset, record.facts) for record in told] == expected
    assert [record.source.value for record in told] == [on_log.value for on_log in log]


def test_a_total_that_opens_and_closes_in_one_epoch_is_published() -> None:
    key, value = event(1, "c", START_MS)
    log = [
        OnLog(0, None, encode(GENESIS), START_MS),
        OnLog(1, key, value, START_MS),
        OnLog(2, None, encode(Tick(0)), START_MS + DAY_MS),
    ]
    _, totals, store = run(log, [])
    published = [decode_total(data) for data in totals.values()]
    assert [t.quantity for t in published if isinstance(t, HourTotal)] == ["1"]
    assert not any(key.startswith((b"t", b"p")) for key in store.tables["accounts"])


def test_a_record_that_is_no_event_is_kept_whole_in_its_dead_letter() -> None:
    log = [OnLog(0, None, encode(GENESIS), START_MS), OnLog(1, b"k", b"garbage", START_MS, (("h", b"v"),))]
    epoch = fold_all(log, MemoryStore())
    ((key, letter),) = epoch.dead_letters
    assert key == b"1/0/1"
    found = decode(letter)
    assert (found.key, found.value, found.reason) == (b"k", b"garbage", "unreadable")  # type: ignore[union-attr]


BOMB = b"\0" * 5_000_000
"""Packed by its producer it is 5 kB, which the topic takes."""


@pytest.mark.parametrize(
    ("key", "value", "headers"),
    [
        pytest.param(b"acme/c", BOMB, (), id="value"),
        pytest.param(BOMB, b"garbage", (), id="key"),
        pytest.param(b"acme/c", b"garbage", (("h", BOMB),), id="header"),
        pytest.param(b"acme/c", b"garbage", (("", b""),) * 700_000, id="many empty headers"),
        pytest.param(b"acme/c", b"garbage", (("\U0001f600" * 600_000, b""),), id="a header's long name"),
    ],
)
def test_a_record_larger_than_its_topic_takes_unpacked_fits_every_output(
    key: bytes, value: bytes, headers: tuple[tuple[str, bytes], ...]
) -> None:
    log = [OnLog(0, None, encode(GENESIS), START_MS), OnLog(1, key, value, START_MS, headers)]
    epoch = fold_all(log, MemoryStore())
    ((_, letter),) = epoch.dead_letters
    assert "the ledger has it whole" in decode(letter).message  # type: ignore[union-attr]
    assert max(len(k or b"") + len(data) for k, data in [*epoch.dead_letters, *epoch.ledger]) < 2_000_000
    reader = LedgerReader()
    _, told = [*reader.feed(data for _, data in epoch.ledger), *reader.flush()]
    assert (told.source.key, told.source.value, told.source.headers) == (key, value, headers)


def test_a_partition_without_a_genesis_is_refused() -> None:
    key, value = event(1, "c", START_MS)
    with pytest.raises(NoGenesis, match="meterlog topics create"):
        fold_all([OnLog(0, key, value, START_MS)], MemoryStore())


# A log that was made anew


def anew(log: Sequence[OnLog], genesis: Genesis, now_ms: int) -> list[OnLog]:
    """Its events again, from offset 0 on, behind another genesis."""
    return [OnLog(0, None, encode(genesis), now_ms), *(replace(r, timestamp=now_ms) for r in log[1:])]


def next_genesis(**fields: Any) -> Genesis:
    return msgspec.structs.replace(GENESIS, **{"incarnation": 2, **fields})


def test_a_log_that_was_made_anew_goes_on_with_the_old_ids_and_totals() -> None:
    """The same records at the same offsets, but for their incarnation: everything that counted is a duplicate now."""
    log = history(random.Random(3))[:120]
    ledger, totals, store = run(log, [])
    new_log = anew(log, next_genesis(), log[-1].timestamp)
    key, value = event(9_999, "c-1", log[-1].timestamp)
    new_log.append(OnLog(new_log[-1].offset + 1, key, value, log[-1].timestamp))
    fold = UsageFold(BUILTIN_CATALOG).open(0, store)
    assert fold.begin_anew(new_log[0])
    assert fold.next_offset == 0
    fold.fold(new_log[:50], now_ms=log[-1].timestamp)
    store.apply(epoch := fold.take())
    ledger += [value for _, value in epoch.ledger]
    epoch = fold_all(new_log[50:], store)  # another life of the fold
    ledger += [value for _, value in epoch.ledger]
    totals |= epoch.totals

    told = list(whole_records([LogRecord(n, None, value, 0) for n, value in enumerate(ledger)]))
    records = [record for record in told if record.position.incarnation == 2]
    assert [record.position.offset for record in records] == [r.offset for r in new_log]
    outcomes = [fact for record in records for fact in record.facts if isinstance(fact, (EventCounted, EventDuplicate))]
    assert [fact.event_id for fact in outcomes if isinstance(fact, EventCounted)] == ["id-9999"]
    firsts = [fact.first_offset for fact in outcomes if isinstance(fact, EventDuplicate)]
    assert set(firsts) <= {record.offset for record in log}, "the records of the old log, which is the first"

    changed = [decode_total(value) for value in epoch.totals.values()]
    assert {(total.incarnation, total.version_offset) for total in changed} == {(2, new_log[-1].offset)}
    found = replay_partition(
        BUILTIN_CATALOG, 0, raw_records([LogRecord(n, None, v, 0) for n, v in enumerate(ledger)]), TotalsBook.of(totals)
    )
    assert found.difference is None
    assert found.records == len(log) + len(new_log)


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(encode(next_genesis(deployment_id="other")), id="of another deployment"),
        pytest.param(encode(next_genesis(incarnation=1)), id="of the same incarnation"),
        pytest.param(encode(next_genesis(incarnation=3)), id="of one too late"),
        pytest.param(encode(next_genesis(partition_count=2)), id="of another number of partitions"),
        pytest.param(encode(next_genesis(operator_public_key=b"x" * 32)), id="of another operator"),
        pytest.param(encode(Tick(0)), id="of none: a log that was cut at its start"),
        pytest.param(b"garbage", id="of none: somebody else's log"),
    ],
)
def test_a_log_is_not_taken_for_the_next_one_that_begins_with_a_genesis(first: bytes) -> None:
    log = history(random.Random(3))[:20]
    _, _, store = run(log, [])
    fold = UsageFold(BUILTIN_CATALOG).open(0, store)
    assert not fold.begin_anew(OnLog(0, None, first, START_MS))
    assert fold.next_offset == log[-1].offset + 1


def test_a_genesis_of_the_next_incarnation_in_the_middle_of_a_log_is_refused() -> None:
    """Anybody who may append to the log may append that."""
    log = history(random.Random(3))[:20]
    _, _, store = run(log, [])
    forged = OnLog(log[-1].offset + 1, None, encode(next_genesis()), log[-1].timestamp)
    epoch = fold_all([forged], store)
    reader = LedgerReader()
    (told,) = [*reader.feed(value for _, value in epoch.ledger), *reader.flush()]
    assert told.position == Position(1, 0, forged.offset)
    assert [type(fact) for fact in told.facts] == [GenesisRefused]


def test_a_forged_genesis_that_retention_leaves_as_the_first_record_begins_no_log() -> None:
    """What was folded is gone, and the next record says that the log is another; readers of the ledger would stop for good."""
    log = history(random.Random(3))[:20]
    _, _, store = run(log, [])
    fold = UsageFold(BUILTIN_CATALOG).open(0, store)
    assert not fold.begin_anew(OnLog(log[-1].offset + 1, None, encode(next_genesis()), log[-1].timestamp))


def stop_of(fold: PartitionFold) -> Stop | None:
    return fold.stop


def test_what_stood_in_the_old_log_does_not_stand_in_the_new_one() -> None:
    log = history(random.Random(3))[:20]
    _, _, store = run(log, [])
    fold = UsageFold(BUILTIN_CATALOG).open(0, store)
    leap = OnLog(log[-1].offset + 1, None, encode(Tick(0)), log[-1].timestamp + 41 * DAY_MS)
    fold.fold([leap], now_ms=leap.timestamp)
    assert stop_of(fold) is not None
    store.apply(fold.take())
    fold = UsageFold(BUILTIN_CATALOG).open(0, store)
    assert stop_of(fold) is not None, "it stands in its next life, too"
    assert fold.begin_anew(OnLog(0, None, encode(next_genesis()), log[-1].timestamp))
    assert stop_of(fold) is None
    fold.fold([OnLog(0, None, encode(next_genesis()), log[-1].timestamp)], now_ms=log[-1].timestamp)
    store.apply(fold.take())
    assert stop_of(UsageFold(BUILTIN_CATALOG).open(0, store)) is None

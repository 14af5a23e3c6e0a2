"""The fold of usage events over a store: the same as the pure rules in memory, however the log is cut into epochs."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from billing.catalog.builtin import BUILTIN_CATALOG, LLM_CALL
from billing.errors import NoGenesis
from billing.fold import decide, evolve
from billing.records import Genesis, Logged, Position, Record, Tick, UsageEvent
from billing.state import MemoryState
from schemas.codec import decode, decode_record, encode
from schemas.ledger import LedgerReader
from schemas.totals import HourTotal, decode_total
from streams.port import Epoch
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

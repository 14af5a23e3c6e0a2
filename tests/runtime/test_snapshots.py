"""Folded again from a month's snapshot, a partition is what it is folded again from its genesis: rows, facts and all."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing import fold as rules
from billing.facts import AccountSnapshot, Fact, SnapshotBegun, SnapshotDone
from billing.late.types import Approve, LateRequest, LateUsage, Reject
from billing.metering.rules import SEEN_MS
from billing.orders.types import Order, QuarantineAccount, ReleaseAccount
from billing.records import Genesis, Record, Tick
from billing.snapshots import month_start_s
from billing.state import MemoryState
from runtime.ledger_log import raw_records, whole_records
from runtime.logs import LogRecord
from runtime.refold import Rebuild, Refold
from runtime.replay import PartitionReplay, SnapshotUnfit, TotalsBook, replay_partition
from schemas.codec import encode
from schemas.ledger import SourceRecord, encode_facts
from streams.usage import UsageFold
from tests.billing.harness import CATALOG, DAY_MS, HOUR_MS, T0_MS, usage
from tests.billing.logs import usage_events
from tests.streams.memory_store import MemoryStore
from tests.streams.test_usage import OnLog
from tests.support.operator import key_of, public_key, signed, signed_late

ACCOUNTS = ["acme/alice", "acme/bob", "acme/\u00e9l\u00e8ve/1", "globex/a", "globex/b"]
ADVANCES = [0, 1_000, HOUR_MS, DAY_MS, 5 * DAY_MS, 20 * DAY_MS, 34 * DAY_MS, 35 * DAY_MS, 39 * DAY_MS]


@dataclass
class Log:
    """A partition's log as it grows."""

    records: list[OnLog] = field(default_factory=list)
    now_ms: int = T0_MS - 10 * DAY_MS

    def add(self, record: Record, key: bytes | None = None) -> None:
        self.records.append(OnLog(len(self.records), key, encode(record), self.now_ms))  # type: ignore[arg-type]

    def order(self, order: Order) -> None:
        self.add(signed(order, issued_at_ms=1 + len(self.records)), key_of(order))

    def late(self, request: LateRequest, account: str) -> None:
        self.add(signed_late(request, account, issued_at_ms=self.now_ms), account.encode())


@st.composite
def late_requests(draw: st.DrawFn, now_ms: int, account: str) -> LateRequest:
    """Of few ids, so that some are decided, and some twice."""
    event_id = draw(st.sampled_from(["late-1", "late-2"]))
    if kind := draw(st.sampled_from([None, Approve, Approve, Reject])):
        return kind(event_id)
    return LateUsage(usage(event_id, now_ms - 35 * DAY_MS, account.split("/", 1)[1], meter="calls"))


def new_log() -> Log:
    log = Log()
    log.add(Genesis("test", 1, 1, public_key()))
    return log


@st.composite
def logs(draw: st.DrawFn) -> Log:
    """Months of it: every account may be opened, set aside and released at any moment, ticks may come late or fail to come."""
    log = new_log()
    for _ in range(draw(st.integers(min_value=5, max_value=40))):
        account = draw(st.sampled_from(ACCOUNTS))
        kind = draw(
            st.sampled_from(
                ["event"] * 6 + ["again"] * 2 + ["pass"] * 3 + ["tick"] * 3 + ["aside", "release"] + ["late"] * 3
            )
        )
        if kind == "pass":
            # Longer, and the partition would stand before the next record: the log would need an order.
            log.now_ms = min(log.now_ms + draw(st.sampled_from(ADVANCES)), log.records[-1].timestamp + 39 * DAY_MS)
        elif kind == "event":
            log.add(draw(usage_events(log.now_ms, account)), account.encode())
        elif kind == "again":
            again = draw(st.sampled_from(log.records[1:] or [log.records[0]]))
            log.records.append(OnLog(len(log.records), again.key, again.value, log.now_ms))
        elif kind == "tick":
            for _ in range(draw(st.integers(min_value=1, max_value=5))):
                log.add(Tick(0))
        elif kind == "late":
            log.late(draw(late_requests(log.now_ms, account)), account)
        else:
            log.order(QuarantineAccount(account, None) if kind == "aside" else ReleaseAccount(account))
    return log


class Folded:
    """A log folded by the worker's fold."""

    def __init__(self, log: Log) -> None:
        store = MemoryStore()
        fold = UsageFold(CATALOG).open(0, store)
        self.ledger: list[bytes] = []
        self.totals: dict[bytes, bytes] = {}
        for start in range(0, len(log.records), 7):
            fold.fold(log.records[start : start + 7], now_ms=log.now_ms)
            assert fold.stop is None, fold.stop
            epoch = fold.take()
            store.apply(epoch)
            self.ledger += [value for _, value in epoch.ledger]
            self.totals |= epoch.totals

    @property
    def facts(self) -> list[Fact]:
        return [fact for told in whole_records(on_ledger(self.ledger)) for fact in told.facts]

    def snapshots(self) -> list[SnapshotBegun]:
        """Those that were finished."""
        done = {fact.month_start_s for fact in self.facts if isinstance(fact, SnapshotDone)}
        return [fact for fact in self.facts if isinstance(fact, SnapshotBegun) and fact.month_start_s in done]


def on_ledger(values: list[bytes]) -> list[LogRecord]:
    return [LogRecord(n, None, value, 0) for n, value in enumerate(values)]


def replayed(ledger: list[bytes], totals: dict[bytes, bytes], start: SnapshotBegun | None) -> PartitionReplay:
    return replay_partition(CATALOG, 0, raw_records(on_ledger(ledger)), TotalsBook.of(totals), start=start)


def rows_of(state: MemoryState) -> dict[str, Any]:
    """All rows that a decision can see: ids that count, pairs of today."""
    families = {name: dict(family.rows) for name, family in vars(state).items() if hasattr(family, "rows")}
    today = state.log_ms // DAY_MS
    families["seen"] = {k: v for k, v in families["seen"].items() if v.accepted_at_ms + SEEN_MS > state.log_ms}
    families["pairs"] = {k: v for k, v in families["pairs"].items() if k.booking_day >= today}
    return copy.deepcopy({"partition": state.partition, "log_ms": state.log_ms, **families})


def refolded(ledger: list[bytes], start: SnapshotBegun | None) -> MemoryState:
    """The state at the ledger's end, from the genesis or from a snapshot."""
    refold = Refold(CATALOG)
    rebuild = None if start is None else Rebuild(refold, CATALOG, start.month_start_s)
    for told in whole_records(on_ledger(ledger)):
        if start is not None and told.log_ms < start.since_ms:
            continue
        if rebuild is not None and not rebuild.is_done:
            rebuild.take(told)
        else:
            assert refold.fold(told).facts == told.facts
    return refold.state


@pytest.mark.parametrize("due_per_tick", [500, 2], ids=["in one tick", "over many ticks, with events between"])
@settings(max_examples=15)
@given(log=logs())
def test_from_a_snapshot_is_from_the_genesis(due_per_tick: int, log: Log) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rules, "DUE_PER_TICK_MAX", due_per_tick)
        folded = Folded(log)
        assert replayed(folded.ledger, folded.totals, None).difference is None
        whole = rows_of(refolded(folded.ledger, None))
        for start in folded.snapshots():
            again = replayed(folded.ledger, folded.totals, start)
            assert again.difference is None
            assert again.records + again.rebuilt <= len(log.records)
            assert rows_of(refolded(folded.ledger, start)) == whole


def months(*, is_bob_aside: bool = True) -> Log:
    """Three months of a few accounts, a tick a day."""
    log = new_log()
    log.now_ms = T0_MS
    log.add(usage("once", T0_MS, "a", meter="calls"), b"globex/a")  # its counter stands in the row ever after
    log.late(LateUsage(usage("late-1", T0_MS - 40 * DAY_MS, "a", meter="calls")), "globex/a")
    for day in range(75):
        log.now_ms = T0_MS + day * DAY_MS
        for number, account in enumerate(ACCOUNTS):
            event = usage(f"e{day}", log.now_ms - number * 8 * DAY_MS, account.split("/", 1)[1], meter="tokens")
            log.add(event, account.encode())
        if day == 3 and is_bob_aside:
            log.order(QuarantineAccount("acme/bob", None))
        log.add(Tick(0))
    return log


@pytest.fixture(scope="module")
def folded() -> Folded:
    return Folded(months())


def test_each_month_has_one_snapshot_of_every_account(folded: Folded) -> None:
    assert [fact.month_start_s * 1_000 for fact in folded.snapshots()] == [
        T0_MS,
        T0_MS + 31 * DAY_MS,
        T0_MS + 61 * DAY_MS,
    ]
    names = [fact.account for fact in folded.facts if isinstance(fact, AccountSnapshot)]
    assert names == sorted(ACCOUNTS, key=str.encode) * 3


def test_what_a_quarantine_keeps_open_is_reached_back_to(folded: Folded) -> None:
    """The account's rows of March are open in May: 36 days before May would not make them."""
    may = folded.snapshots()[-1]
    assert may.since_ms < may.month_start_s * 1_000 - 36 * DAY_MS
    later = msgspec.structs.replace(may, since_ms=may.month_start_s * 1_000 - 36 * DAY_MS)
    assert replayed(folded.ledger, folded.totals, may).difference is None
    assert rows_of(refolded(folded.ledger, later)) != rows_of(refolded(folded.ledger, None))


def rewritten(folded: Folded, change: Any, until_ms: int = 1 << 60) -> list[bytes]:
    """The ledger with other facts in it, up to a log time."""
    told = [
        SourceRecord(r.position, r.log_ms, r.source, tuple(f for fact in r.facts if (f := change(fact)) is not None))
        if r.log_ms < until_ms
        else r
        for r in whole_records(on_ledger(folded.ledger))
    ]
    return [data for r in told for data in encode_facts(r.position, r.log_ms, r.source, r.facts)]


def without_a_counter(fact: Fact) -> Fact:
    """A snapshot that misses one counter of one account."""
    if isinstance(fact, AccountSnapshot) and fact.account == "globex/a":
        return msgspec.structs.replace(fact, counters=tuple([c for c in fact.counters if c[0] != "calls"]))
    return fact


def test_a_snapshot_that_misses_a_counter_is_found_from_the_genesis(folded: Folded) -> None:
    found = replayed(rewritten(folded, without_a_counter), folded.totals, None)
    assert found.difference is not None
    assert any(fact["fact"] == "AccountSnapshot" for fact in found.difference.expected)


def test_a_snapshot_that_misses_a_counter_is_found_from_the_month_before(folded: Folded) -> None:
    """April's lacks it; May's has it, and is not what the rows of April's make."""
    april, may = folded.snapshots()[1:]
    ledger = rewritten(folded, without_a_counter, may.month_start_s * 1_000)
    found = replayed(ledger, folded.totals, april)
    assert found.difference is not None
    assert found.difference.where.startswith("usage-events")
    assert any(fact["fact"] == "AccountSnapshot" for fact in found.difference.found)


def test_a_snapshot_that_misses_an_account_is_none_to_go_on_from() -> None:
    folded = Folded(months(is_bob_aside=False))
    ledger = rewritten(
        folded, lambda fact: None if isinstance(fact, AccountSnapshot) and fact.account == "globex/a" else fact
    )
    with pytest.raises(SnapshotUnfit, match="it lacks 1 accounts, such as globex/a"):
        replayed(ledger, folded.totals, folded.snapshots()[-1])


def test_a_snapshot_that_is_not_finished_is_none_to_go_on_from(folded: Folded) -> None:
    may = folded.snapshots()[-1]
    ledger = rewritten(folded, lambda fact: None if isinstance(fact, SnapshotDone) else fact)
    with pytest.raises(SnapshotUnfit, match="not whole yet"):
        replayed(ledger, folded.totals, may)
    with pytest.raises(SnapshotUnfit, match="the next month's snapshot begins"):
        replayed(ledger, folded.totals, folded.snapshots()[0])


def test_a_month_begins_in_utc() -> None:
    assert month_start_s(T0_MS - 1) < T0_MS // 1_000 == month_start_s(T0_MS)

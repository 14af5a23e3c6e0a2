"""The fold beside a naive book: every record has the same outcome, and every row the same value."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from billing.errors import NotHonoured, TimeJumped
from billing.facts import (
    AccountOpened,
    AccountSnapshot,
    BehaviourSwitched,
    CommandRefused,
    EventCounted,
    EventDuplicate,
    EventRejected,
    Fact,
    GenesisApplied,
    GenesisRefused,
    LateApproved,
    LateReceived,
    LateRejected,
    LateRepeated,
    LateSnapshot,
    OrderApplied,
    OrderHonoured,
    OrderRepeated,
    PairsCapped,
    SnapshotBegun,
    SnapshotDone,
    StripeHourClosed,
    Ticked,
    TotalClosed,
)
from billing.fold import decide, evolve, is_due
from billing.orders.fold import Heard
from billing.orders.types import QuarantineAccount, QuarantineRecord, ReleaseAccount
from billing.records import Command, Genesis, Position, Record, Tick, UsageEvent
from schemas.codec import encode
from tests.billing.book import Book
from tests.billing.harness import DAY_MS, HOUR_MS, T0_MS, Decide, Entry, Evolve, Folding, usage
from tests.billing.logs import ACCOUNTS, FLAWS, advances, respelled, strangers, usage_events
from tests.support.operator import STRANGERS_KEY, signed

accounts = st.sampled_from(ACCOUNTS)
NO_EFFECT = [
    ("no usage",), ("refused", "unsigned"), ("rejected", "unreadable", None), ("rejected", "key_mismatch", "customer_id"),
]  # fmt: skip


_NO_MONTH_S = 2**40
"""The book keeps no months: their snapshots share a tick's rows, and `tests/runtime/test_snapshots.py` has them."""


def moment(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def told(fact: Fact) -> tuple[Any, ...]:
    """A fact in the naive book's words."""
    match fact:
        case EventCounted():
            entries = [(entry.meter, Decimal(entry.quantity), entry.stripe_event_name) for entry in fact.entries]
            billing = moment(fact.billing_start_s)
            return (
                *(
                    "counted",
                    fact.account,
                    fact.event_id,
                    fact.feature,
                    fact.model,
                    fact.hour,
                    fact.booking_day,
                    billing,
                ),
                *(fact.stripe_customer, entries),
            )
        case EventDuplicate():
            return ("duplicate", fact.account, fact.event_id, fact.first_offset)
        case EventRejected():
            return ("rejected", fact.reason.value, fact.field)
        case AccountOpened():
            return ("opened", fact.account, fact.plan.plan_id, fact.plan.version, fact.stripe_customer)
        case PairsCapped():
            return ("capped", fact.account, fact.booking_day)
        case Ticked():
            return ("tick", fact.more)
        case TotalClosed():
            return (
                *("total closed", fact.account, moment(fact.billing_start_s), fact.meter, fact.feature, fact.model),
                *(
                    fact.hour,
                    fact.booking_day,
                    Decimal(fact.quantity),
                    fact.event_count,
                    fact.digest,
                    fact.version_offset,
                ),
            )
        case StripeHourClosed():
            return (
                *("stripe hour closed", fact.account, fact.stripe_customer, fact.stripe_event_name, fact.hour),
                *(Decimal(fact.quantity), fact.version_offset),
            )
        case CommandRefused():
            return ("refused", fact.reason.value)
        case OrderHonoured():
            return ("honoured", fact.effect.kind)
        case OrderApplied():
            return ("applied", fact.effect.kind)
        case OrderRepeated():
            return ("repeated", fact.kind)
        case GenesisApplied() | GenesisRefused() | BehaviourSwitched():
            return ("no usage",)
        case LateReceived() | LateRepeated() | LateApproved() | LateRejected():
            return ("no usage",)
        case SnapshotBegun() | AccountSnapshot() | LateSnapshot() | SnapshotDone():
            return ("no usage",)


class FoldBesideBook(RuleBasedStateMachine):
    """What can happen to a partition, in any order."""

    decide: Decide = staticmethod(decide)
    evolve: Evolve = staticmethod(evolve)

    def __init__(self) -> None:
        super().__init__()
        self.folding = Folding(decide=type(self).decide, evolve=type(self).evolve)
        assert self.folding.state.partition is not None, "it begins with a genesis"
        self.folding.state.partition = msgspec.structs.replace(
            self.folding.state.partition, snapshot_month_s=_NO_MONTH_S
        )
        self.book = Book()
        self.now_ms = T0_MS
        self.sent: list[tuple[str, UsageEvent]] = []
        self.orders: list[tuple[QuarantineAccount | ReleaseAccount, int]] = []
        self.issued_at_ms = 10

    def append(self, record: Record, account: str | None) -> list[tuple[Any, ...]]:
        key = None if account is None else account.encode()
        facts = self.folding.append(Entry(record, key, self.now_ms))
        return [told(fact) for fact in facts]

    def send(self, account: str, event: UsageEvent, flaw: str | None = None) -> None:
        expected = self.book.take(self.folding.next_offset, self.now_ms, account, event, flaw)
        assert self.append(event, account) == expected

    @rule(advance_ms=advances)
    def time_passes(self, advance_ms: int) -> None:
        self.now_ms += advance_ms

    @rule(data=st.data(), account=accounts)
    def an_event_comes(self, data: st.DataObject, account: str) -> None:
        event = data.draw(usage_events(self.now_ms, account))
        self.sent.append((account, event))
        self.send(account, event)

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def it_comes_again(self, data: st.DataObject) -> None:
        account, event = data.draw(st.sampled_from(self.sent))
        self.send(account, event)

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def it_comes_again_spelled_otherwise(self, data: st.DataObject) -> None:
        account, event = data.draw(st.sampled_from(self.sent))
        self.send(account, respelled(event))

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def its_id_comes_with_other_content(self, data: st.DataObject) -> None:
        account, event = data.draw(st.sampled_from(self.sent))
        other = msgspec.structs.replace(event, tags=(*event.tags, "other"), occurred_at_us=self.now_ms * 1_000)
        self.send(account, other)

    @precondition(lambda self: self.book.met)
    @rule(data=st.data(), early_ms=st.sampled_from([0, 1]))
    def an_id_is_used_anew_at_the_edge_of_its_window(self, data: st.DataObject, early_ms: int) -> None:
        (account, event_id), (accepted_ms, _, _) = data.draw(st.sampled_from(list(self.book.met.items())))
        self.now_ms = max(self.now_ms, accepted_ms + 35 * DAY_MS - early_ms)
        self.send(account, usage(event_id, self.now_ms, account.split("/", 1)[1], tags=("anew",)))

    @rule(account=accounts, flaw=st.sampled_from(sorted(FLAWS)))
    def a_flawed_event_comes(self, account: str, flaw: str) -> None:
        event = usage("e1", self.now_ms, account.split("/", 1)[1])
        self.send(account, msgspec.structs.replace(event, **FLAWS[flaw]), flaw)

    @rule(record=strangers, account=accounts)
    def a_stranger_comes(self, record: Record, account: str) -> None:
        (fact,) = self.append(record, account)
        aside = self.book.is_aside(account) and not isinstance(record, (Command, Genesis))
        assert fact in ([("rejected", "quarantined", None)] if aside else NO_EFFECT)

    @rule(account=accounts, count=st.sampled_from([3, 4, 150, 203]), first=st.integers(0, 60), meter=st.booleans())
    def many_features_are_used(self, account: str, count: int, first: int, meter: bool) -> None:
        counted_on = {"meter": "images"} if meter else {"event_type": "llm.call", "input_tokens": 3, "output_tokens": 1}
        customer_id = account.split("/", 1)[1]
        for n in range(first, first + count):
            event_id = f"{self.folding.next_offset}"
            self.send(account, usage(event_id, self.now_ms, customer_id, feature=f"f{n}", **counted_on))

    @rule(account=accounts, aside=st.booleans())
    def an_account_is_ordered_aside_or_back(self, account: str, *, aside: bool) -> None:
        order = QuarantineAccount(account, None) if aside else ReleaseAccount(account)
        self.issued_at_ms += 1
        self.orders.append((order, self.issued_at_ms))
        self.give(order, self.issued_at_ms)

    @precondition(lambda self: self.orders)
    @rule(data=st.data())
    def an_order_is_copied(self, data: st.DataObject) -> None:
        self.give(*data.draw(st.sampled_from(self.orders)))

    @rule(account=accounts, aside=st.booleans(), other=st.booleans())
    def an_order_is_forged(self, account: str, *, aside: bool, other: bool) -> None:
        order = QuarantineAccount(account, None) if aside else ReleaseAccount(account)
        forged = signed(order, 10**15, deployment_id="other") if other else signed(order, 10**15, by=STRANGERS_KEY)
        assert self.append(forged, account) == [("refused", "unsigned")]

    def give(self, order: QuarantineAccount | ReleaseAccount, issued_at_ms: int) -> None:
        aside = isinstance(order, QuarantineAccount)
        expected = self.book.order(order.account, issued_at_ms, aside=aside)
        assert self.append(signed(order, issued_at_ms), order.account) == [expected]

    @rule(data=st.data(), account=accounts)
    def an_event_is_set_aside(self, data: st.DataObject, account: str) -> None:
        event = data.draw(usage_events(self.now_ms, account))
        heard = self.hear(QuarantineRecord(Position(1, 0, self.folding.next_offset)))
        self.folding.sparse = False
        facts = self.folding.append(Entry(event, account.encode(), self.now_ms + 50 * DAY_MS, heard))
        self.folding.sparse = True
        assert [told(fact) for fact in facts] == [("honoured", "quarantine_record"), ("rejected", "quarantined", None)]

    @rule(away=st.sampled_from([-1, 1]))
    def an_order_about_another_record_is_not_honoured(self, away: int) -> None:
        heard = self.hear(QuarantineRecord(Position(1, 0, self.folding.next_offset + away)))
        with pytest.raises(NotHonoured):
            self.folding.append(Entry(Tick(0), None, self.now_ms, heard))

    def hear(self, order: QuarantineRecord) -> Heard:
        command = signed(order)
        return Heard(command, None, encode(command), 10**9 + self.folding.next_offset)

    @rule(back_ms=st.sampled_from([1, HOUR_MS, 36 * DAY_MS]))
    def a_tick_comes_with_an_older_time(self, back_ms: int) -> None:
        expected = self.book.tick(self.folding.state.log_ms)
        facts = self.folding.append(Entry(Tick(0), None, self.folding.state.log_ms - back_ms))
        assert [told(fact) for fact in facts] == expected

    @rule()
    def a_jump_is_not_believed(self) -> None:
        self.folding.sparse = False
        with pytest.raises(TimeJumped):
            self.folding.append(Entry(Tick(0), None, self.folding.state.log_ms + 40 * DAY_MS + 1))
        self.folding.sparse = True

    @rule()
    def a_tick_comes(self) -> None:
        assert self.append(Tick(0), None) == self.book.tick(self.now_ms)

    @invariant()
    def log_time_never_goes_back(self) -> None:
        assert self.folding.state.log_ms >= self.book.log_ms
        self.book.log_ms = self.folding.state.log_ms

    @invariant()
    def what_may_not_close_is_not_due(self) -> None:
        log_ms = self.folding.state.log_ms
        waits = bool(self.book.due(log_ms) or any(self.book.pairs[key] for key in self.book.due_pairs(log_ms)))
        assert is_due(self.folding.state, log_ms) == waits

    @invariant()
    def every_row_is_the_books(self) -> None:
        state = self.folding.state
        note(f"{len(state.totals.rows)} totals, {len(state.seen.rows)} ids")
        assert {
            (key.account, moment(key.billing_start_s), *key[3:], key.booking_day): (
                Decimal(row.quantity_nano).scaleb(-9),
                row.event_count,
                row.digest.to_bytes(16, "little"),
            )
            for key, row in state.totals.rows.items()
        } == {row: self.book.summed(lines) for row, lines in self.book.totals.items()}
        assert {
            (key.account, key.stripe_customer, key.stripe_event_name, key.hour): Decimal(row.quantity_nano).scaleb(-9)
            for key, row in state.stripe_hours.rows.items()
        } == {row: sum(counts) for row, counts in self.book.stripe.items()}
        assert {
            (account, meter): (moment(counter.period_start_s), Decimal(counter.used_nano).scaleb(-9))
            for account, row in state.accounts.rows.items()
            for meter, counter in row.counters.items()
        } == {key: (day, sum(used)) for key, (day, used) in self.book.quotas.items()}
        assert set(state.accounts.rows) == self.book.customers
        assert {(key.account, key.booking_day): set(pairs) for key, pairs in state.pairs.rows.items()} == {
            key: pairs for key, pairs in self.book.pairs.items() if pairs
        }
        assert {tuple(key): row.first_offset for key, row in state.seen.rows.items()} == {
            key: offset for key, (_, offset, _) in self.book.met.items()
        }


TestFoldBesideBook = FoldBesideBook.TestCase
TestFoldBesideBook.settings = settings(max_examples=50, stateful_step_count=30)

"""The fold beside a naive book: every record has the same outcome, and every row the same value."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec
from hypothesis import note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from billing.facts import (
    AccountOpened,
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
    OrderApplied,
    OrderHonoured,
    OrderRepeated,
    PairsCapped,
    StripeHourClosed,
    Ticked,
    TotalClosed,
)
from billing.fold import decide, evolve
from billing.records import Record, Tick, UsageEvent
from tests.billing.book import Book
from tests.billing.harness import DAY_MS, T0_MS, Decide, Entry, Evolve, Folding, usage
from tests.billing.logs import ACCOUNTS, FLAWS, advances, respelled, strangers, usage_events

accounts = st.sampled_from(ACCOUNTS)


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
        case GenesisApplied() | GenesisRefused() | CommandRefused() | OrderHonoured() | OrderApplied():
            return ("no usage",)
        case BehaviourSwitched() | OrderRepeated():
            return ("no usage",)
        case LateReceived() | LateRepeated() | LateApproved() | LateRejected():
            return ("no usage",)


class FoldBesideBook(RuleBasedStateMachine):
    """What can happen to a partition, in any order."""

    decide: Decide = staticmethod(decide)
    evolve: Evolve = staticmethod(evolve)

    def __init__(self) -> None:
        super().__init__()
        self.folding = Folding(decide=type(self).decide, evolve=type(self).evolve)
        self.book = Book()
        self.now_ms = T0_MS
        self.sent: list[tuple[str, UsageEvent]] = []

    def append(self, record: Record, account: str | None) -> list[tuple[Any, ...]]:
        key = None if account is None else account.encode()
        return [told(fact) for fact in self.folding.append(Entry(record, key, self.now_ms))]

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
        assert fact in [("no usage",), ("rejected", "unreadable", None), ("rejected", "key_mismatch", "customer_id")]

    @rule(account=accounts, count=st.sampled_from([3, 4, 150, 203]), first=st.integers(0, 60), meter=st.booleans())
    def many_features_are_used(self, account: str, count: int, first: int, meter: bool) -> None:
        counted_on = {"meter": "images"} if meter else {"event_type": "llm.call", "input_tokens": 3, "output_tokens": 1}
        customer_id = account.split("/", 1)[1]
        for n in range(first, first + count):
            event_id = f"{self.folding.next_offset}"
            self.send(account, usage(event_id, self.now_ms, customer_id, feature=f"f{n}", **counted_on))

    @rule()
    def a_tick_comes(self) -> None:
        assert self.append(Tick(0), None) == self.book.tick(self.now_ms)

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

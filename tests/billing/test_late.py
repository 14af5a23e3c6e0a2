"""Late usage: what waits, what a person's word makes of it, and that each id is decided once, for ever."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any
from unittest.mock import patch

import msgspec
import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from billing.facts import (
    AccountOpened,
    CommandRefused,
    Entry,
    EventCounted,
    EventDuplicate,
    EventRejected,
    Fact,
    LateApproved,
    LateReceived,
    LateRejected,
    LateRepeated,
    Reason,
)
from billing.late import fold as late_fold
from billing.late.types import LATE_TYPES, Approve, LateRequest, LateUsage, Reject, decode_late, encode_late, late_type
from billing.orders.types import QuarantineAccount
from billing.records import Tick, UsageEvent
from billing.state import Late, LateKey, MemoryFamily
from tests.billing.harness import CATALOG, DAY_MS, HOUR_MS, T0_MS, Folding, usage
from tests.billing.harness import Entry as Record
from tests.support.operator import STRANGERS_KEY, key_of, signed, signed_late

ALICE = "acme/alice"
OLD_MS = T0_MS - 40 * DAY_MS


def give(folding: Folding, request: LateRequest, log_ms: int = T0_MS, account: str = ALICE) -> list[Fact]:
    command = signed_late(request, account, issued_at_ms=log_ms)
    return folding.append(Record(command, account.encode(), log_ms))


def late_event(event_id: str = "late-1", occurred_at_ms: int = OLD_MS, **fields: Any) -> UsageEvent:
    return usage(event_id, occurred_at_ms, **fields)


def refusal(facts: list[Fact]) -> Reason:
    (fact,) = facts
    assert isinstance(fact, CommandRefused), fact
    return fact.reason


REQUESTS: dict[str, LateRequest] = {
    "late_usage": LateUsage(late_event(tags=("a",), properties={"b": "c"}, event_type="llm.call", input_tokens=3)),
    "late_approve": Approve("late-1"),
    "late_reject": Reject("late-1"),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_is_read_back_as_it_was_made(name: str) -> None:
    assert late_type(REQUESTS[name]) == name
    assert decode_late(name, encode_late(REQUESTS[name])) == REQUESTS[name]
    assert set(REQUESTS) == LATE_TYPES


def test_it_waits_and_nothing_is_counted() -> None:
    folding = Folding()
    (fact,) = give(folding, LateUsage(late_event()))
    assert isinstance(fact, LateReceived)
    assert not folding.state.totals.rows
    assert folding.state.late.rows == {LateKey(ALICE, "late-1"): Late(1, fact.payload_digest, late_event())}


def test_an_approval_counts_it_in_its_hour_on_the_approvals_booking_day() -> None:
    folding = Folding()
    give(folding, LateUsage(late_event(meter="tokens", quantity="2.5")))
    approved, opened, counted = give(folding, Approve("late-1"), T0_MS + DAY_MS)
    assert isinstance(approved, LateApproved)
    assert isinstance(opened, AccountOpened)
    assert isinstance(counted, EventCounted)
    assert (approved.event, approved.received_offset) == (late_event(meter="tokens", quantity="2.5"), 1)
    assert (counted.hour, counted.booking_day) == (OLD_MS // HOUR_MS, (T0_MS + DAY_MS) // DAY_MS)
    ((key, total),) = folding.state.totals.rows.items()
    assert (key.hour, key.booking_day, total.quantity_nano) == (counted.hour, counted.booking_day, 2_500_000_000)


def test_stripe_is_not_told_of_it_and_that_is_told() -> None:
    """Its hour's total at Stripe is closed: a new row would put the late part over the whole."""
    folding = Folding()
    give(folding, LateUsage(late_event(meter="tokens", quantity="2.5")))
    facts = give(folding, Approve("late-1"))
    approved, counted = facts[0], facts[-1]
    assert isinstance(approved, LateApproved)
    assert isinstance(counted, EventCounted)
    assert approved.untold == (Entry("tokens", "2.5", "llm_usage"),)
    assert counted.entries == (Entry("tokens", "2.5", None),)
    assert not folding.state.stripe_hours.rows


def test_a_rejection_keeps_the_id_alone() -> None:
    folding = Folding()
    give(folding, LateUsage(late_event()))
    (fact,) = give(folding, Reject("late-1"))
    assert isinstance(fact, LateRejected)
    assert folding.state.late.rows == {LateKey(ALICE, "late-1"): Late(1, fact.payload_digest, None)}
    assert not folding.state.totals.rows


@pytest.mark.parametrize("decision", [Approve("late-1"), Reject("late-1")], ids=["approved", "rejected"])
def test_an_id_is_decided_once_however_long_ago(decision: LateRequest) -> None:
    folding = Folding()
    give(folding, LateUsage(late_event()))
    give(folding, decision)
    later_ms = T0_MS + 3_000 * DAY_MS
    assert refusal(give(folding, Approve("late-1"), later_ms)) is Reason.STALE
    assert refusal(give(folding, Reject("late-1"), later_ms)) is Reason.STALE
    assert give(folding, LateUsage(late_event()), later_ms) == [LateRepeated(ALICE, "late-1", 1)]
    other = LateUsage(late_event(quantity="7"))
    assert refusal(give(folding, other, later_ms)) is Reason.ID_CONFLICT


def test_an_approval_without_a_row_is_refused() -> None:
    assert refusal(give(Folding(), Approve("nobody sent it"))) is Reason.STALE


def test_an_event_that_was_counted_is_no_late_one() -> None:
    folding = Folding()
    event = late_event(occurred_at_ms=T0_MS - 33 * DAY_MS)
    folding.outcome(event)
    later_ms = T0_MS + 2 * DAY_MS
    assert give(folding, LateUsage(event), later_ms) == [LateRepeated(ALICE, "late-1", 1)]
    other = msgspec.structs.replace(event, quantity="2")
    assert refusal(give(folding, LateUsage(other), later_ms)) is Reason.ID_CONFLICT


def test_an_id_that_was_counted_while_it_waited_is_not_approved() -> None:
    """Another event of the same id: a person must tell them apart. It may still be rejected."""
    folding = Folding()
    give(folding, LateUsage(late_event()))
    folding.outcome(usage("late-1"))
    assert refusal(give(folding, Approve("late-1"))) is Reason.ID_CONFLICT
    assert isinstance(give(folding, Reject("late-1"))[0], LateRejected)


@pytest.mark.parametrize("decision", [Approve("late-1"), Reject("late-1")], ids=["approved", "rejected"])
def test_a_decision_that_was_refused_is_worth_nothing_when_somebody_sends_it_again(decision: LateRequest) -> None:
    """It is signed, and lies on the log for all to copy. By now the event waits, or its id's count is forgotten."""
    folding = Folding()
    command = signed_late(decision, ALICE, issued_at_ms=T0_MS)
    assert refusal(folding.append(Record(command, ALICE.encode(), T0_MS))) is Reason.STALE
    give(folding, LateUsage(late_event()))
    folding.outcome(usage("late-1"))
    later_ms = T0_MS + 36 * DAY_MS
    assert refusal(folding.append(Record(command, ALICE.encode(), later_ms))) is Reason.STALE
    assert len(folding.state.totals.rows) == 1, "counted once"
    (row,) = folding.state.late.rows.values()
    assert row.event is not None, "it waits"


@pytest.mark.parametrize(
    ("apart_ms", "is_taken"), [(600_000, True), (600_001, False), (-600_000, True), (-600_001, False)]
)
def test_a_decision_is_taken_for_ten_minutes(apart_ms: int, *, is_taken: bool) -> None:
    folding = Folding()
    give(folding, LateUsage(late_event()))
    command = signed_late(Reject("late-1"), ALICE, issued_at_ms=T0_MS - apart_ms)
    (fact,) = folding.append(Record(command, ALICE.encode(), T0_MS))
    assert isinstance(fact, LateRejected if is_taken else CommandRefused)


def test_an_approved_id_is_known_to_the_other_doors() -> None:
    folding = Folding()
    give(folding, LateUsage(late_event()))
    give(folding, Approve("late-1"))
    again = folding.outcome(usage("late-1"))
    assert isinstance(again, EventRejected)
    assert again.reason is Reason.ID_CONFLICT


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        pytest.param(late_event(occurred_at_ms=T0_MS - 34 * DAY_MS), Reason.INVALID_FIELD, id="at the window's edge"),
        pytest.param(late_event(occurred_at_ms=T0_MS + DAY_MS), Reason.IN_FUTURE, id="of tomorrow"),
        pytest.param(late_event(quantity="-1"), Reason.INVALID_FIELD, id="a field that breaks a rule"),
        pytest.param(late_event(meter="parsecs"), Reason.UNKNOWN_METER, id="a meter that nobody knows"),
        pytest.param(late_event(meter="custom2"), Reason.METER_NOT_ENABLED, id="a meter that the plan does not name"),
        pytest.param(late_event(status="failed"), Reason.FAILED_CALL, id="a failed call, which nobody bills"),
        pytest.param(late_event(customer_id="bob"), Reason.KEY_MISMATCH, id="another customer's"),
    ],
)
def test_what_could_not_be_counted_does_not_wait(event: UsageEvent, reason: Reason) -> None:
    folding = Folding()
    assert refusal(give(folding, LateUsage(event))) is reason
    assert not folding.state.late.rows


def test_a_millisecond_past_the_window_waits() -> None:
    assert isinstance(give(Folding(), LateUsage(late_event(occurred_at_ms=T0_MS - 34 * DAY_MS - 1)))[0], LateReceived)


def test_nobody_but_the_operator_decides() -> None:
    folding = Folding()
    give(folding, LateUsage(late_event()))
    for request in REQUESTS.values():
        forged = signed_late(request, ALICE, by=STRANGERS_KEY)
        assert refusal(folding.append(Record(forged))) is Reason.UNSIGNED
        elsewhere = signed_late(request, ALICE, deployment_id="another")
        assert refusal(folding.append(Record(elsewhere))) is Reason.UNSIGNED
        another_customers = signed_late(request, "acme/bob")
        assert refusal(folding.append(Record(another_customers))) is Reason.UNSIGNED


def test_a_request_without_an_account_or_in_pieces_is_refused() -> None:
    folding = Folding()
    unkeyed = signed_late(Approve("late-1"), "nobody")
    assert refusal(folding.append(Record(unkeyed, b"nobody"))) is Reason.KEY_MISMATCH
    cut = signed_late(LateUsage(late_event()), ALICE)
    with patch.object(late_fold, "is_operators", lambda *_: True):
        broken = msgspec.structs.replace(cut, value=cut.value[:-3])
        assert refusal(folding.append(Record(broken))) is Reason.INVALID_FIELD


def test_an_account_that_is_set_aside_gets_no_decision() -> None:
    folding = Folding()
    give(folding, LateUsage(late_event()))
    order = QuarantineAccount(ALICE, None)
    folding.append(Record(signed(order), key_of(order)))
    assert refusal(give(folding, Approve("late-1"))) is Reason.QUARANTINED


class LateBesideBook(RuleBasedStateMachine):
    """Senders, a person and time in any order, beside a book of dictionaries."""

    def __init__(self) -> None:
        super().__init__()
        self.folding = Folding()
        self.now_ms = T0_MS
        self.waiting: dict[str, UsageEvent] = {}
        self.decided: dict[str, UsageEvent] = {}
        self.counted: dict[str, tuple[Decimal, int]] = {}
        """By id, each once: how much, and on which day."""
        self.live: dict[str, tuple[int, UsageEvent]] = {}

    @rule(days=st.integers(0, 30))
    def time_passes(self, days: int) -> None:
        self.now_ms += days * DAY_MS
        self.folding.append(Record(Tick(0), None, self.now_ms))

    @rule(number=st.integers(0, 5), quantity=st.sampled_from(["1", "2.5"]))
    def a_late_event_comes(self, number: int, quantity: str) -> None:
        event = late_event(f"e{number}", T0_MS - (40 + number) * DAY_MS, quantity=quantity)
        (fact,) = give(self.folding, LateUsage(event), self.now_ms)
        known = self.waiting.get(event.event_id) or self.decided.get(event.event_id)
        accepted_ms, met = self.live.get(event.event_id, (-DAY_MS * 1_000, None))
        if known is None and met is not None and self.now_ms < accepted_ms + 35 * DAY_MS:
            known = met
        if known is None:
            assert isinstance(fact, LateReceived)
            self.waiting[event.event_id] = event
        elif known == event:
            assert isinstance(fact, LateRepeated)
        else:
            assert isinstance(fact, CommandRefused)
            assert fact.reason is Reason.ID_CONFLICT

    @rule(number=st.integers(0, 5))
    def a_live_event_comes(self, number: int) -> None:
        event = late_event(f"e{number}", self.now_ms)
        fact = self.folding.outcome(event, self.now_ms)
        accepted_ms, met = self.live.get(event.event_id, (-DAY_MS * 1_000, None))
        if met is None or self.now_ms >= accepted_ms + 35 * DAY_MS:
            assert isinstance(fact, EventCounted)
            self.live[event.event_id] = self.now_ms, event
        else:
            assert isinstance(fact, EventDuplicate if met == event else EventRejected)

    @rule(number=st.integers(0, 5))
    def it_is_approved(self, number: int) -> None:
        facts = give(self.folding, Approve(f"e{number}"), self.now_ms)
        event = self.waiting.get(f"e{number}")
        accepted_ms, met = self.live.get(f"e{number}", (-DAY_MS * 1_000, None))
        if event is None or (met is not None and self.now_ms < accepted_ms + 35 * DAY_MS):
            refusal(facts)
            return
        assert isinstance(facts[-1], EventCounted)
        self.decided[f"e{number}"] = self.waiting.pop(f"e{number}")
        self.live[f"e{number}"] = self.now_ms, event
        assert f"e{number}" not in self.counted
        self.counted[f"e{number}"] = Decimal(event.quantity), self.now_ms // DAY_MS

    @rule(number=st.integers(0, 5))
    def it_is_rejected(self, number: int) -> None:
        (fact,) = give(self.folding, Reject(f"e{number}"), self.now_ms)
        assert isinstance(fact, LateRejected if f"e{number}" in self.waiting else CommandRefused)
        if f"e{number}" in self.waiting:
            self.decided[f"e{number}"] = self.waiting.pop(f"e{number}")

    @precondition(lambda self: self.counted)
    @invariant()
    def each_approval_is_counted_once_in_its_own_row(self) -> None:
        found = [
            (fact.event_id, Decimal(fact.entries[0].quantity), fact.booking_day)
            for fact, _, _ in self.folding.facts
            if isinstance(fact, EventCounted) and fact.occurred_at_us < (T0_MS - 34 * DAY_MS) * 1_000
        ]
        assert sorted(found) == sorted((event_id, *told) for event_id, told in self.counted.items())

    @invariant()
    def rows_are_the_books(self) -> None:
        rows = self.folding.state.late.rows
        assert {key.event_id: row.event for key, row in rows.items() if row.event is not None} == self.waiting
        assert {key.event_id for key, row in rows.items() if row.event is None} == set(self.decided)


TestLateBesideBook = LateBesideBook.TestCase
TestLateBesideBook.settings = settings(max_examples=100, stateful_step_count=30)


@contextmanager
def a_decided_row_is_dropped() -> Iterator[None]:
    """The id is forgotten with the event."""
    sound = MemoryFamily.put

    def put(self: Any, key: Any, row: Any, /) -> None:
        if isinstance(row, Late) and row.event is None:
            self.rows.pop(key)
        else:
            sound(self, key, row)

    with patch.object(MemoryFamily, "put", put):
        yield


@contextmanager
def an_approved_event_goes_on_waiting() -> Iterator[None]:
    with patch("billing.fold.evolve_approved", lambda *_: None):
        yield


@contextmanager
def a_rejection_changes_nothing() -> Iterator[None]:
    with patch("billing.fold.evolve_late_rejected", lambda *_: None):
        yield


@contextmanager
def other_content_is_a_repeat() -> Iterator[None]:
    with patch("billing.late.fold.payload_digest", lambda event: event.event_id.encode()):
        yield


@contextmanager
def nobody_looks_whether_it_was_counted() -> Iterator[None]:
    with patch("billing.late.fold.met_before", lambda *_: None):
        yield


@pytest.mark.parametrize(
    "fault",
    [
        a_decided_row_is_dropped,
        an_approved_event_goes_on_waiting,
        a_rejection_changes_nothing,
        other_content_is_a_repeat,
        nobody_looks_whether_it_was_counted,
    ],
    ids=lambda fault: fault.__name__,
)
def test_the_book_notices_that(fault: Callable[[], Any]) -> None:
    looking = settings(
        max_examples=1_000,
        stateful_step_count=20,
        derandomize=True,
        database=None,
        print_blob=False,
        report_multiple_bugs=False,
        phases=[Phase.generate],
    )
    with fault(), pytest.raises(AssertionError):
        run_state_machine_as_test(LateBesideBook, settings=looking)


def test_the_catalog_of_an_approval_decides_its_meters() -> None:
    """What the plan named when it was received, and does not any more, is refused; the event goes on waiting."""
    folding = Folding()
    give(folding, LateUsage(late_event(meter="custom1")))
    (plan,) = CATALOG.plans.values()
    meters = {slug: meter for slug, meter in plan.meters.items() if slug != "custom1"}
    narrower = type(plan)(plan.ref, plan.name, plan.quota_period, meters, plan.billing_period)
    folding.catalog = type(CATALOG).build(
        revision=2, currency="USD", meters=CATALOG.meters.values(), plans=[narrower], default=plan.ref
    )
    assert refusal(give(folding, Approve("late-1"))) is Reason.METER_NOT_ENABLED
    assert folding.state.late.rows[LateKey(ALICE, "late-1")].event is not None

"""An operator's orders: who may give them, what each lets through or changes, and what a copied one does: nothing."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.behaviours import BEHAVIOURS, Rules
from billing.errors import InvalidField, NotHonoured, RecordCrashed, StoreFailed, TimeJumped, UnknownBehaviour
from billing.facts import (
    AccountOpened,
    BehaviourSwitched,
    CommandRefused,
    EventCounted,
    EventRejected,
    GenesisRefused,
    OrderApplied,
    OrderEffect,
    OrderHonoured,
    OrderRepeated,
    Reason,
    StripeHourClosed,
    Ticked,
    TotalClosed,
)
from billing.fold import decide, evolve, is_due
from billing.orders.fold import Heard
from billing.orders.types import (
    Order,
    QuarantineAccount,
    QuarantineRecord,
    ReleaseAccount,
    Resume,
    SwitchBehaviour,
    Time,
    decode_order,
    encode_order,
    order_type,
)
from billing.records import Command, Genesis, Position, Record, Tick, Unreadable
from billing.signing import is_signed, message_to_sign
from billing.state import Quarantine
from billing.step import JUMP_MS_MAX, step
from schemas.codec import encode
from tests.billing.harness import CATALOG, DAY_MS, GENESIS, KEY, T0_MS, Entry, Folding, rows_of, usage
from tests.support.operator import OPERATOR_KEY, STRANGERS_KEY, key_of, public_key, signed

ALICE, BOB = "acme/alice", "acme/bob"
YEAR_MS = 365 * DAY_MS


def at(offset: int, partition: int = 0, incarnation: int = 1) -> Position:
    return Position(incarnation, partition, offset)


def heard(command: Command, key: bytes | None, offset: int = 50) -> Heard:
    return Heard(command, key, encode(command), offset)


def hearing(order: Order, offset: int = 50, **how: Any) -> Heard:
    return heard(signed(order, **how), key_of(order), offset)


def give(folding: Folding, order: Order, log_ms: int = T0_MS, **how: Any) -> Any:
    """Append an order at the log's end; its only fact."""
    (fact,) = folding.append(Entry(signed(order, **how), key_of(order), log_ms))
    return fact


def tick(folding: Folding, log_ms: int, **how: Any) -> list[Any]:
    return folding.append(Entry(Tick(0), None, log_ms, **how))


ORDERS: dict[str, Order] = {
    "quarantine_record": QuarantineRecord(at(7)),
    "quarantine_account": QuarantineAccount(ALICE, at(7)),
    "release_account": ReleaseAccount(ALICE),
    "resume": Resume(at(7)),
    "time": Time(at(7), 9),
    "switch_behaviour": SwitchBehaviour(2),
}


@pytest.mark.parametrize("name", ORDERS)
def test_an_order_is_read_back_as_it_was_given(name: str) -> None:
    assert order_type(ORDERS[name]) == name
    assert decode_order(name, encode_order(ORDERS[name])) == ORDERS[name]


@pytest.mark.parametrize(
    ("name", "value", "field"),
    [
        ("stop_the_world", b"", "type"),
        ("resume", b"", "value"),
        ("resume", b"\xc1", "value"),
        ("resume", encode_order(ORDERS["time"]), "value"),
        ("release_account", b"\x92\xafrelease_account\xa1\xff", "value"),
        ("time", encode_order(Time(at(7), 6)), "last_offset"),
    ],
    ids=["unknown", "nothing", "no MessagePack", "another kind", "not UTF-8", "a stretch that ends before it begins"],
)
def test_what_is_no_order_is_refused_by_name(name: str, value: bytes, field: str) -> None:
    with pytest.raises(InvalidField) as refused:
        decode_order(name, value)
    assert refused.value.field == field


# Who may give orders

SIGNED = signed(ReleaseAccount(ALICE))
OTHERWISE: dict[str, dict[str, Any]] = {
    "another deployment": {"deployment_id": "other"},
    "another type": {"type": "resume"},
    "another request": {"request_id": b"q" * 16},
    "another time": {"issued_at_ms": 2},
    "another value": {"value": encode_order(ReleaseAccount(BOB))},
    "no signature": {"signature": b""},
    "a short signature": {"signature": SIGNED.signature[:-1]},
}


def test_a_signature_covers_everything_that_an_order_says() -> None:
    assert is_signed(public_key(), SIGNED, KEY)
    for what, changed in OTHERWISE.items():
        assert not is_signed(public_key(), msgspec.structs.replace(SIGNED, **changed), KEY), what
    assert not is_signed(public_key(), SIGNED, b"acme/bob")
    assert not is_signed(public_key(), SIGNED, None)
    assert not is_signed(public_key(STRANGERS_KEY), SIGNED, KEY)
    for no_key in (b"", b"short", b"k" * 33):
        assert not is_signed(no_key, SIGNED, KEY)


@given(st.lists(st.tuples(st.text(max_size=3), st.text(max_size=3), st.none() | st.binary(max_size=3)), min_size=2))
def test_no_two_commands_are_signed_alike(parts: list[tuple[str, str, bytes | None]]) -> None:
    """Lengths stand before the parts: what one part ends with, the next cannot begin with instead."""
    messages = {message_to_sign(Command(kind, org, b"", 0, b"", "operator", b""), key) for org, kind, key in parts}
    assert len(messages) == len(set(parts))


FORGED = {name: msgspec.structs.replace(SIGNED, **changed) for name, changed in OTHERWISE.items()}
FORGED["a stranger's key"] = signed(ReleaseAccount(ALICE), by=STRANGERS_KEY)
FORGED["another deployment's operator"] = signed(ReleaseAccount(ALICE), deployment_id="other")
FORGED["a node's name"] = msgspec.structs.replace(SIGNED, key_id="node-1")


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED.keys())
def test_who_is_not_the_operator_orders_nothing(forged: Command) -> None:
    folding = Folding()
    give(folding, QuarantineAccount(ALICE, None))
    before = rows_of(folding.state)
    (fact,) = folding.append(Entry(forged, KEY))
    assert isinstance(fact, CommandRefused)
    assert fact.reason is Reason.UNSIGNED
    assert rows_of(folding.state) == before


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED.keys())
def test_who_is_not_the_operator_lets_nothing_through(forged: Command) -> None:
    with pytest.raises(NotHonoured, match="signature"):
        Folding().append(Entry(usage(), heard=heard(forged, KEY)))


def test_an_order_that_is_none_is_refused_by_its_field() -> None:
    order = msgspec.structs.replace(signed(Resume(at(7))), value=b"\xc1")
    resigned = msgspec.structs.replace(order, signature=_sign(order))
    (fact,) = Folding().append(Entry(resigned, None))
    assert isinstance(fact, CommandRefused)
    assert (fact.reason, fact.kind) == (Reason.INVALID_FIELD, "resume")
    assert fact.message.startswith("value: ")


def _sign(command: Command) -> bytes:
    return OPERATOR_KEY.sign(message_to_sign(command, None))


# Log time


def test_log_time_never_goes_back() -> None:
    folding = Folding(sparse=False)
    for append_ms in (T0_MS + 5, T0_MS + 1, T0_MS - YEAR_MS, T0_MS + 5, T0_MS + 6):
        tick(folding, append_ms)
    assert [log_ms for _, _, log_ms in folding.facts[1:]] == [T0_MS + n for n in (5, 5, 5, 5, 6)]


@pytest.mark.parametrize(
    ("jump_ms", "stands"), [(JUMP_MS_MAX, False), (JUMP_MS_MAX + 1, True)], ids=["40 days", "more"]
)
def test_a_jump_of_more_than_40_days_is_not_believed(jump_ms: int, stands: bool) -> None:
    folding = Folding(sparse=False)
    before = rows_of(folding.state)
    if not stands:
        assert tick(folding, T0_MS + jump_ms)[0] == Ticked(more=False)
        return
    with pytest.raises(TimeJumped, match="40 days on"):
        tick(folding, T0_MS + jump_ms)
    assert (rows_of(folding.state), folding.state.log_ms) == (before, T0_MS)


def test_a_partitions_first_record_jumps_from_nowhere() -> None:
    assert Folding(sparse=False).state.log_ms == T0_MS


def test_a_jump_that_is_real_is_resumed() -> None:
    folding = Folding(sparse=False)
    order = hearing(Resume(at(1)))
    honoured, ticked, *_snapshot = tick(folding, T0_MS + YEAR_MS, heard=order)
    assert honoured == OrderHonoured(order.value, None, 50, OrderEffect("resume"))
    assert ticked == Ticked(more=False)
    assert folding.state.log_ms == T0_MS + YEAR_MS


def test_log_time_stands_over_the_offsets_of_a_time_order() -> None:
    folding = Folding(sparse=False)
    tick(folding, T0_MS + YEAR_MS, heard=hearing(Time(at(1), 3)))
    for _ in range(2):
        tick(folding, T0_MS + YEAR_MS)
    assert folding.state.log_ms == T0_MS
    with pytest.raises(TimeJumped):
        tick(folding, T0_MS + YEAR_MS)
    tick(folding, T0_MS + 1)
    assert folding.state.log_ms == T0_MS + 1, "behind them it goes on"


def test_a_time_order_holds_for_what_lies_behind_it() -> None:
    folding = Folding(sparse=False)
    applied = give(folding, Time(at(0), 3))
    assert applied == OrderApplied(OrderEffect("time", first_offset=0, last_offset=3))
    tick(folding, T0_MS + YEAR_MS)
    tick(folding, T0_MS + 5)
    assert folding.state.log_ms == T0_MS, "every record up to the last"
    tick(folding, T0_MS + 5)
    assert folding.state.log_ms == T0_MS + 5


def test_a_time_order_that_anybody_copies_is_kept_once() -> None:
    """Whoever may append usage may append the operator's orders again; the row that keeps them must not grow with it."""
    folding = Folding()
    for _ in range(20):
        give(folding, Time(at(0), 1_000))
    assert folding.state.partition is not None
    assert folding.state.partition.still == ((0, 1_000),)


def test_stretches_that_are_over_are_forgotten() -> None:
    folding = Folding()
    for n in range(1, 20):
        give(folding, Time(at(n), n + 3))
    assert folding.state.partition is not None
    assert len(folding.state.partition.still) <= 5


# What lets a record through


class Poison:
    """Rules that raise where they meet an account: its events, and what of it a tick closes."""

    def __init__(self, account: str, *, half: bool = False) -> None:
        self.account = account
        self.half = half

    def rules(self) -> dict[str, Any]:
        return {"decide": self.decide, "evolve": self.evolve}

    def decide(self, state: Any, *rest: Any) -> Any:
        facts = decide(state, *rest)
        if not self.half and any(getattr(fact, "account", None) == self.account for fact in facts if _works(fact)):
            raise ZeroDivisionError(self.account)
        return facts

    def evolve(self, state: Any, catalog: Any, fact: Any, *rest: Any) -> None:
        if self.half and isinstance(fact, EventCounted) and fact.account == self.account:
            raise ZeroDivisionError(self.account)
        evolve(state, catalog, fact, *rest)


def _works(fact: object) -> bool:
    return isinstance(fact, (AccountOpened, EventCounted, TotalClosed))


def test_a_record_that_crashes_a_rule_is_not_folded() -> None:
    folding = Folding(**Poison(ALICE).rules())
    before = rows_of(folding.state)
    with pytest.raises(RecordCrashed, match="ZeroDivisionError: acme/alice") as stands:
        folding.append(Entry(usage(), log_ms=T0_MS + 9))
    assert not stands.value.half_applied
    assert (rows_of(folding.state), folding.state.log_ms) == (before, T0_MS)


def test_a_record_that_crashes_half_way_says_so() -> None:
    folding = Folding(**Poison(ALICE, half=True).rules())
    with pytest.raises(RecordCrashed) as stands:
        folding.append(Entry(usage(), log_ms=T0_MS + 9))
    assert stands.value.half_applied
    assert folding.state.log_ms == T0_MS


@pytest.mark.parametrize("error", [StoreFailed("disk"), MemoryError()], ids=lambda error: type(error).__name__)
def test_what_is_not_the_records_fault_parks_nothing(error: Exception) -> None:
    def broken(*_: Any) -> Any:
        raise error

    with pytest.raises(type(error)):
        Folding(genesis=None, decide=broken).append(Entry(GENESIS, None))


ASIDE: dict[str, tuple[Record, Any]] = {
    "an event": (usage(), EventRejected(Reason.QUARANTINED, None, "", None, None, None)),
    "bytes": (Unreadable("x"), EventRejected(Reason.QUARANTINED, None, "", None, None, None)),
    "a command": (SIGNED, CommandRefused(Reason.QUARANTINED, "release_account", "")),
    "a genesis": (Genesis("other", 9, 9, b""), GenesisRefused("")),
    "a tick": (Tick(0), None),
}


@pytest.mark.parametrize(("record", "fact"), ASIDE.values(), ids=ASIDE.keys())
def test_a_record_is_set_aside_with_its_time(record: Record, fact: Any) -> None:
    folding = Folding(sparse=False)
    order = hearing(QuarantineRecord(at(1)))
    honoured, *rest = folding.append(Entry(record, KEY, T0_MS + YEAR_MS, order))
    assert honoured == OrderHonoured(order.value, None, 50, OrderEffect("quarantine_record"))
    expected = [] if fact is None else [msgspec.structs.replace(fact, message=rest[0].message)]  # type: ignore[union-attr]
    assert rest == expected
    assert folding.state.log_ms == T0_MS
    assert not folding.state.accounts.rows


NOT_ABOUT_IT: dict[str, tuple[Order, int]] = {
    "another offset": (QuarantineRecord(at(2)), 50),
    "another partition": (QuarantineRecord(at(1, partition=1)), 50),
    "another incarnation": (QuarantineRecord(at(1, incarnation=2)), 50),
    "resume elsewhere": (Resume(at(2)), 50),
    "a stretch before": (Time(at(0), 0), 50),
    "a stretch behind": (Time(at(2), 9), 50),
    "a stretch of another partition": (Time(at(0, partition=1), 9), 50),
    "an account without a position": (QuarantineAccount(ALICE, None), 50),
    "an account elsewhere": (QuarantineAccount(ALICE, at(2)), 50),
    "a release": (ReleaseAccount(ALICE), 50),
    "a switch": (SwitchBehaviour(2), 50),
    "an order that lies before": (QuarantineRecord(at(1)), 0),
    "an order about itself": (QuarantineRecord(at(1)), 1),
}


@pytest.mark.parametrize(("order", "offset"), NOT_ABOUT_IT.values(), ids=NOT_ABOUT_IT.keys())
def test_an_order_lets_through_what_it_names_and_nothing_else(order: Order, offset: int) -> None:
    folding = Folding()
    with pytest.raises(NotHonoured, match="not about the record"):
        folding.append(Entry(usage(), heard=hearing(order, offset)))


@pytest.mark.parametrize(
    "order", [QuarantineRecord(at(1)), QuarantineAccount(ALICE, at(1)), Resume(at(1)), Time(at(1), 1)], ids=order_type
)
def test_an_order_that_was_honoured_is_a_repeat_at_its_own_place(order: Order) -> None:
    folding = Folding()
    assert isinstance(folding.append(Entry(usage(), heard=hearing(order, 3)))[0], OrderHonoured)
    tick(folding, T0_MS)
    before = rows_of(folding.state)
    assert give(folding, order) == OrderRepeated(order_type(order))
    assert rows_of(folding.state) == before
    with pytest.raises(NotHonoured, match="not about"):
        folding.append(Entry(usage(), heard=hearing(order, 3)))


@pytest.mark.parametrize(
    ("order", "said"),
    [
        (QuarantineRecord(at(1)), "position: 1 is folded"),
        (Resume(at(1)), "position: 1 is folded"),
        (Time(at(0), 1), "position: 0 is folded"),
        (QuarantineRecord(at(2)), "position: 2 is not reached yet"),
        (Resume(at(9)), "position: 9 is not reached yet"),
    ],
    ids=["a record behind", "resume behind", "a stretch behind", "itself", "resume further on"],
)
def test_an_order_that_came_to_nothing_says_why(order: Order, said: str) -> None:
    folding = Folding()
    tick(folding, T0_MS)
    before = rows_of(folding.state)
    fact = give(folding, order)
    assert isinstance(fact, CommandRefused)
    assert fact.reason is Reason.INVALID_FIELD
    assert fact.message.startswith(said)
    assert rows_of(folding.state) == before


def test_an_order_copied_to_another_partition_is_misrouted() -> None:
    fact = give(Folding(), Resume(at(0, partition=3)))
    assert isinstance(fact, CommandRefused)
    assert fact.reason is Reason.MISROUTED


# Accounts


def test_a_quarantined_accounts_records_are_set_aside_until_its_release() -> None:
    folding = Folding()
    folding.append(Entry(usage("e1")))
    assert give(folding, QuarantineAccount(ALICE, None), issued_at_ms=10) == OrderApplied(
        OrderEffect("quarantine_account", ALICE, 10)
    )
    rows = folding.state.totals.rows.copy()
    for record in (usage("e2"), usage("e1"), usage("e3", quantity="-1"), Unreadable("x")):
        fact = folding.outcome(record)
        assert isinstance(fact, EventRejected)
        assert (fact.reason, fact.account) == (Reason.QUARANTINED, ALICE)
    assert folding.state.totals.rows == rows
    assert isinstance(folding.append(Entry(usage("b", customer_id="bob"), b"acme/bob"))[-1], EventCounted)
    assert isinstance(give(folding, ReleaseAccount(ALICE), issued_at_ms=11), OrderApplied)
    assert isinstance(folding.outcome(usage("e2")), EventCounted), "what was set aside may come again"


def test_what_is_due_of_a_quarantined_account_waits_for_its_release() -> None:
    folding = Folding()
    folding.append(Entry(usage("a")))
    folding.append(Entry(usage("b", customer_id="bob"), b"acme/bob"))
    give(folding, QuarantineAccount(ALICE, None), issued_at_ms=10)
    later_ms = T0_MS + 36 * DAY_MS
    closed = [fact.account for fact in tick(folding, later_ms) if isinstance(fact, (TotalClosed, StripeHourClosed))]
    assert closed == [BOB, BOB], "a total and a Stripe hour"
    assert not is_due(folding.state, later_ms), "what must wait is not due for ever"
    give(folding, ReleaseAccount(ALICE), later_ms, issued_at_ms=11)
    assert is_due(folding.state, later_ms)
    assert [fact.account for fact in tick(folding, later_ms)[1:]] == [ALICE, ALICE]


def test_a_tick_that_crashed_on_an_account_passes_without_it() -> None:
    folding = Folding()
    folding.append(Entry(usage("a")))
    folding.append(Entry(usage("b", customer_id="bob"), b"acme/bob"))
    poisoned = Folding(state=folding.state, offset=3, **Poison(ALICE).rules())
    with pytest.raises(RecordCrashed):
        tick(poisoned, T0_MS + DAY_MS)
    order = hearing(QuarantineAccount(ALICE, at(3)), issued_at_ms=10)
    honoured, ticked, closed = tick(poisoned, T0_MS + DAY_MS, heard=order)
    assert honoured == OrderHonoured(order.value, KEY, 50, OrderEffect("quarantine_account", ALICE, 10))
    assert ticked == Ticked(more=False)
    assert closed.account == BOB


def test_an_old_order_about_an_account_does_nothing_any_more() -> None:
    """Whoever may write events may copy an order. The log's clock is not asked: a wrong one would lock the operator out."""
    folding = Folding()
    quarantine, release = QuarantineAccount(ALICE, None), ReleaseAccount(ALICE)
    give(folding, quarantine, issued_at_ms=10)
    assert give(folding, quarantine, T0_MS + YEAR_MS, issued_at_ms=10) == OrderRepeated("quarantine_account")
    give(folding, release, issued_at_ms=20)
    for issued_at_ms in (10, 19):
        fact = give(folding, quarantine, issued_at_ms=issued_at_ms)
        assert isinstance(fact, CommandRefused)
        assert fact.reason is Reason.STALE
    assert folding.state.quarantines.rows == {ALICE: Quarantine(20, aside=False)}
    stale = hearing(QuarantineAccount(ALICE, at(folding.next_offset)), issued_at_ms=19)
    with pytest.raises(NotHonoured, match="older than what was last ordered"):
        folding.append(Entry(usage(), heard=stale))
    assert isinstance(give(folding, quarantine, issued_at_ms=21), OrderApplied)


def test_an_order_about_an_account_must_lie_where_the_account_does() -> None:
    folding = Folding()
    order = QuarantineAccount(ALICE, None)
    mislaid = signed(order)
    resigned = msgspec.structs.replace(mislaid, signature=_sign(mislaid))
    (fact,) = folding.append(Entry(resigned, None))
    assert isinstance(fact, CommandRefused)
    assert fact.reason is Reason.KEY_MISMATCH
    wide = Folding(genesis=msgspec.structs.replace(GENESIS, partition_count=1_000))
    elsewhere = give(wide, order)
    assert isinstance(elsewhere, CommandRefused)
    assert elsewhere.reason is Reason.MISROUTED
    nobody = give(folding, QuarantineAccount("no slash", None))
    assert isinstance(nobody, CommandRefused)
    assert nobody.reason is Reason.INVALID_FIELD


# Behaviour versions


def test_behaviour_goes_on_one_version_at_a_time() -> None:
    folding = Folding()
    assert folding.state.partition is not None
    ahead = give(folding, SwitchBehaviour(3))
    assert isinstance(ahead, CommandRefused)
    assert ahead.reason is Reason.INVALID_FIELD
    assert give(folding, SwitchBehaviour(1)) == OrderRepeated("switch_behaviour")
    assert give(folding, SwitchBehaviour(2)) == BehaviourSwitched(2)
    assert folding.state.partition.behaviour_version == 2
    with pytest.raises(UnknownBehaviour, match="version 2"):
        tick(folding, T0_MS)


def test_each_record_is_decided_by_the_rules_that_hold_at_its_place() -> None:
    def half_price(*args: Any) -> Any:
        return [
            msgspec.structs.replace(fact, entries=()) if isinstance(fact, EventCounted) else fact
            for fact in decide(*args)
        ]

    behaviours = {**BEHAVIOURS, 2: Rules(half_price, evolve, is_due)}
    state = Folding().state
    counted = []
    switch = SwitchBehaviour(2)
    log: list[Record] = [usage("e1"), signed(switch), usage("e2")]
    for n, record in enumerate(log, start=1):
        key = key_of(switch) if isinstance(record, Command) else KEY
        facts = step(state, behaviours, CATALOG, record, key, T0_MS, at(n))
        counted += [len(fact.entries) for fact in facts if isinstance(fact, EventCounted)]
    assert counted == [1, 0]

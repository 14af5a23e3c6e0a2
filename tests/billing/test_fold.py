"""The fold of usage events, told as cases."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from billing.catalog.builtin import BUILTIN_CATALOG
from billing.catalog.types import PlanRef
from billing.errors import RowsContradict
from billing.facts import (
    AccountOpened,
    EventCounted,
    EventDuplicate,
    EventRejected,
    PairsCapped,
    Reason,
    StripeHourClosed,
    Ticked,
    TotalClosed,
)
from billing.facts import (
    Entry as FactEntry,
)
from billing.fold import DUE_PER_TICK_MAX, STRIPE_HOUR_OPEN_S, is_due
from billing.metering.fold import OTHER
from billing.metering.rules import PAIRS_PER_DAY_MAX
from billing.quantities import NANO
from billing.records import Tick
from billing.state import Counter, MemoryState
from tests.billing.harness import CATALOG, DAY_MS, HOUR_MS, T0_MS, Entry, Folding, usage

WINDOW_MS = 34 * DAY_MS
(TEAM,) = CATALOG.plans.values()


def tick(folding: Folding, log_ms: int) -> list[Any]:
    return list(folding.append(Entry(Tick(0), None, log_ms)))


def test_the_first_event_opens_the_account_and_is_counted() -> None:
    folding = Folding()
    facts = folding.append(
        Entry(usage("e1", T0_MS + 90 * 60_000, feature="chat", quantity="2.50"), log_ms=T0_MS + DAY_MS)
    )
    opened, counted = facts
    assert opened == AccountOpened("acme/alice", PlanRef("team", 3), "acme/alice")
    assert isinstance(counted, EventCounted)
    assert counted.entries == (FactEntry("calls", "2.5", "calls"),)
    assert (counted.feature, counted.model) == ("chat", "")
    assert counted.hour == T0_MS // HOUR_MS + 1, "the hour is the event's"
    assert counted.booking_day == T0_MS // DAY_MS + 1, "the booking day is the log's"
    assert counted.billing_start_s == T0_MS // 1_000, "the month's first moment belongs to the month"
    assert folding.append(Entry(usage("e2", T0_MS + DAY_MS), log_ms=T0_MS + DAY_MS))[0] != opened, "once"


def test_an_llm_call_counts_on_every_meter_that_it_says_something_of() -> None:
    call = usage("e1", event_type="llm.call", input_tokens=100, output_tokens=20, cached_tokens=60)
    counted = Folding().outcome(call)
    assert isinstance(counted, EventCounted)
    assert {entry.meter: (entry.quantity, entry.stripe_event_name) for entry in counted.entries} == {
        "calls": ("1", "calls"),
        "tokens": ("120", "llm_usage"),
        "input_tokens": ("100", None),
        "output_tokens": ("20", "llm_usage"),
        "cached_tokens": ("60", None),
    }


def test_two_meters_add_up_in_one_stripe_meter() -> None:
    folding = Folding()
    folding.append(Entry(usage("e1", event_type="llm.call", input_tokens=100, output_tokens=20)))
    sent = {key.stripe_event_name: row.quantity_nano for key, row in folding.state.stripe_hours.rows.items()}
    assert sent == {"calls": NANO, "llm_usage": (100 + 20 + 20) * NANO}


def test_a_repeat_is_a_duplicate_of_the_first() -> None:
    folding = Folding()
    folding.append(Entry(usage("e1")))
    assert folding.outcome(usage("e1", quantity="1.000")) == EventDuplicate("acme/alice", "e1", 1)
    assert folding.outcome(usage("e1")) == EventDuplicate("acme/alice", "e1", 1)
    assert folding.outcome(usage("e1", customer_id="bob"), key=b"acme/bob") != EventDuplicate("acme/bob", "e1", 1)


def test_ids_are_each_organisations_own() -> None:
    folding = Folding()
    folding.append(Entry(usage("e1")))
    assert isinstance(folding.outcome(usage("e1"), key=b"other/alice"), EventCounted)


@pytest.mark.parametrize(
    ("later_ms", "reason"),
    [
        pytest.param(WINDOW_MS, Reason.ID_CONFLICT, id="34 days later the id is taken"),
        pytest.param(WINDOW_MS + DAY_MS - 1, Reason.ID_CONFLICT, id="a millisecond before the 35th day ends, too"),
        pytest.param(WINDOW_MS + DAY_MS, None, id="then it is free"),
    ],
)
def test_both_edges_of_an_ids_window(later_ms: int, reason: Reason | None) -> None:
    folding = Folding()
    folding.append(Entry(usage("e1")))
    anew = folding.outcome(usage("e1", T0_MS + later_ms), T0_MS + later_ms)
    assert (anew.reason if isinstance(anew, EventRejected) else None) == reason


@pytest.mark.parametrize(
    ("later_ms", "outcome"),
    [
        pytest.param(WINDOW_MS, EventDuplicate, id="34 days later a repeat is a duplicate"),
        pytest.param(WINDOW_MS + 1, EventRejected, id="a millisecond later it is too old"),
        pytest.param(WINDOW_MS + DAY_MS, EventRejected, id="and so it is when its id is forgotten"),
        pytest.param(10 * WINDOW_MS, EventRejected, id="and for ever"),
    ],
)
def test_a_repeat_is_never_counted_again(later_ms: int, outcome: type[Any]) -> None:
    folding = Folding()
    folding.append(Entry(usage("e1")))
    assert isinstance(folding.outcome(usage("e1"), T0_MS + later_ms), outcome)


def test_an_event_from_the_future_is_never_counted_again() -> None:
    """The hardest case for the window: accepted as early, and occurred as late, as the rules allow."""
    folding = Folding()
    ahead = usage("e1", T0_MS + 300_000)
    assert isinstance(folding.outcome(ahead, T0_MS), EventCounted)
    last_taken_ms = T0_MS + 300_000 + WINDOW_MS
    assert isinstance(folding.outcome(ahead, last_taken_ms), EventDuplicate)
    refused = folding.outcome(ahead, last_taken_ms + 1)
    assert isinstance(refused, EventRejected)
    assert refused.reason is Reason.TOO_OLD


def test_a_failed_call_is_recorded_once_and_not_billed() -> None:
    folding = Folding()
    failed = folding.outcome(usage("e1", status="failed"))
    assert isinstance(failed, EventRejected)
    assert failed.reason is Reason.FAILED_CALL
    assert isinstance(folding.outcome(usage("e1", status="failed")), EventDuplicate)
    then_succeeded = folding.outcome(usage("e1"))
    assert isinstance(then_succeeded, EventRejected)
    assert then_succeeded.reason is Reason.ID_CONFLICT
    assert not folding.state.totals.rows


def test_a_plan_may_bill_failed_calls() -> None:
    billing = msgspec.structs.replace(TEAM, bill_failed_calls=True)
    folding = Folding(msgspec.structs.replace(CATALOG, plans={TEAM.ref: billing}))
    assert isinstance(folding.outcome(usage("e1", status="failed")), EventCounted)


def test_a_refused_id_is_free_for_the_mended_event() -> None:
    folding = Folding()
    assert isinstance(folding.outcome(usage("e1", quantity="-1")), EventRejected)
    assert isinstance(folding.outcome(usage("e1", meter="nonsense")), EventRejected)
    assert isinstance(folding.outcome(usage("e1", T0_MS + DAY_MS)), EventRejected)
    assert isinstance(folding.outcome(usage("e1")), EventCounted)


def test_a_quota_counter_goes_forward_only() -> None:
    folding = Folding()
    day_s = T0_MS // 1_000
    noon = T0_MS + DAY_MS // 2

    def counter() -> Counter:
        return folding.state.accounts.rows["acme/alice"].counters["calls"]

    folding.append(Entry(usage("e1", T0_MS, quantity="3"), log_ms=noon))
    folding.append(Entry(usage("e2", noon, quantity="4"), log_ms=noon))
    assert counter() == Counter(day_s, 7 * NANO)
    folding.append(Entry(usage("e3", noon + DAY_MS, quantity="5"), log_ms=noon + DAY_MS))
    assert counter() == Counter(day_s + 86_400, 5 * NANO), "a period's first event replaces the counter"
    folding.append(Entry(usage("e4", noon, quantity="6"), log_ms=noon + DAY_MS))
    assert counter() == Counter(day_s + 86_400, 5 * NANO), "usage of the day before weighs on no quota"
    folding.append(Entry(usage("e5", noon + DAY_MS, quantity="1"), log_ms=noon + DAY_MS))
    assert counter() == Counter(day_s + 86_400, 6 * NANO)


def test_late_usage_opens_a_row_of_its_own_booking_day() -> None:
    folding = Folding()
    folding.append(Entry(usage("e1", quantity="1")))
    ticked, closed, *_ = tick(folding, T0_MS + DAY_MS)
    assert ticked == Ticked(more=False)
    assert isinstance(closed, TotalClosed)
    assert (closed.quantity, closed.event_count, closed.version_offset) == ("1", 1, 1)
    folding.append(Entry(usage("e2", quantity="2"), log_ms=T0_MS + DAY_MS))
    (key,) = folding.state.totals.rows
    assert (key.hour, key.booking_day) == (closed.hour, closed.booking_day + 1)
    (late,) = [fact for fact in tick(folding, T0_MS + 2 * DAY_MS) if isinstance(fact, TotalClosed)]
    assert (late.quantity, late.event_count) == ("2", 1), "readers add up over booking days"


@pytest.mark.parametrize(
    ("log_ms", "closed"), [(T0_MS + DAY_MS - 1, 0), (T0_MS + DAY_MS, 1)], ids=["a millisecond before", "at midnight"]
)
def test_a_total_closes_when_its_booking_day_is_over(log_ms: int, closed: int) -> None:
    folding = Folding()
    folding.append(Entry(usage("e1", meter="images")))
    assert is_due(folding.state, log_ms) == bool(closed)
    assert len(tick(folding, log_ms)) == 1 + closed
    assert not is_due(folding.state, log_ms), "what was due is done"


@pytest.mark.parametrize(
    ("late_ms", "closed"), [(-1, 0), (0, 1)], ids=["a millisecond before", "35 days after the hour's end"]
)
def test_a_stripe_hour_closes_when_stripe_takes_no_more_for_it(late_ms: int, closed: int) -> None:
    folding = Folding()
    folding.append(Entry(usage("e1", T0_MS + HOUR_MS // 2, quantity="7"), log_ms=T0_MS + HOUR_MS))
    tick(folding, T0_MS + 31 * DAY_MS)  # its day has passed, and its month: that one's snapshot is written here
    log_ms = T0_MS + HOUR_MS + STRIPE_HOUR_OPEN_S * 1_000 + late_ms
    assert is_due(folding.state, log_ms) == bool(closed)
    facts = tick(folding, log_ms)[1:]
    assert facts == [StripeHourClosed("acme/alice", "acme/alice", "calls", T0_MS // HOUR_MS, "7", 1)] * closed


def test_a_tick_closes_500_in_the_order_they_are_due() -> None:
    folding = Folding()
    for n in range(700):
        customer_id = f"c{n % 350:03}"
        log_ms = T0_MS + n // 350 * DAY_MS
        event = usage(f"e{n}", log_ms, customer_id, meter="images")
        folding.append(Entry(event, f"acme/{customer_id}".encode(), log_ms))
    at = T0_MS + 3 * DAY_MS
    first, second, third = tick(folding, at), tick(folding, at), tick(folding, at)
    assert [len(first), len(second), len(third)] == [1 + DUE_PER_TICK_MAX, 1 + 200, 1]
    assert [first[0], second[0], third[0]] == [Ticked(more=True), Ticked(more=False), Ticked(more=False)]
    closed = [(fact.booking_day, fact.account) for fact in (*first[1:], *second[1:])]
    assert closed == sorted(closed), "the older day first, accounts in order"
    assert len(set(closed)) == 700


def test_exactly_500_leave_nothing_behind() -> None:
    folding = Folding()
    for n in range(DUE_PER_TICK_MAX):
        folding.append(Entry(usage(f"e{n}", customer_id=f"c{n}", meter="images"), f"acme/c{n}".encode()))
    assert tick(folding, T0_MS + DAY_MS)[0] == Ticked(more=False)


def test_totals_and_stripe_hours_close_in_the_order_of_time() -> None:
    folding = Folding()
    folding.append(Entry(usage("old", T0_MS)))
    tick(folding, T0_MS + 31 * DAY_MS)
    due_ms = T0_MS + HOUR_MS + STRIPE_HOUR_OPEN_S * 1_000
    day_before = due_ms // DAY_MS * DAY_MS - 1
    folding.append(Entry(usage("new", day_before), log_ms=day_before))
    kinds = [type(fact) for fact in tick(folding, due_ms)[1:]]
    assert kinds == [TotalClosed, StripeHourClosed], "midnight lies before the hour's end"


def test_more_than_200_pairs_of_a_day_are_one() -> None:
    folding = Folding()
    for n in range(PAIRS_PER_DAY_MAX):
        assert len(folding.append(Entry(usage(f"e{n}", feature=f"f{n}", model="m")))) == 1 + (n == 0)
    counted, capped = folding.append(Entry(usage("past", feature="one more", model="m")))
    assert isinstance(counted, EventCounted)
    assert (counted.feature, counted.model) == (OTHER, OTHER)
    assert capped == PairsCapped("acme/alice", T0_MS // DAY_MS)
    assert len(folding.append(Entry(usage("past 2", feature="yet another", model="m")))) == 1, "one alert a day"
    known = folding.outcome(usage("known", feature="f7", model="m"))
    assert isinstance(known, EventCounted)
    assert known.feature == "f7", "a pair that was there keeps its row"
    bob = folding.outcome(usage("b1", customer_id="bob", feature="one more"), key=b"acme/bob")
    assert isinstance(bob, EventCounted)
    assert bob.feature == "one more", "each customer has a cap of their own"
    tomorrow = folding.outcome(usage("t1", T0_MS + DAY_MS, feature="one more"), T0_MS + DAY_MS)
    assert isinstance(tomorrow, EventCounted)
    assert tomorrow.feature == "one more", "and each day"


def test_the_cap_changes_labels_and_never_amounts() -> None:
    folding = Folding()
    for n in range(PAIRS_PER_DAY_MAX + 50):
        folding.append(Entry(usage(f"e{n}", feature=f"f{n}", quantity="1.5")))
    rows = folding.state.totals.rows.values()
    assert sum(row.quantity_nano for row in rows) == (PAIRS_PER_DAY_MAX + 50) * NANO * 3 // 2
    assert sum(row.event_count for row in rows) == PAIRS_PER_DAY_MAX + 50
    assert len(rows) == PAIRS_PER_DAY_MAX + 1


def test_the_builtin_catalog_limits_nobody() -> None:
    folding = Folding(BUILTIN_CATALOG)
    for meter in BUILTIN_CATALOG.meters.values():
        outcome = folding.outcome(usage(meter.slug, meter=meter.slug))
        assert isinstance(outcome, EventRejected if meter.custom else EventCounted)


def test_a_row_that_already_holds_the_record_stops_the_worker() -> None:
    """The second line of defence: a state and a position that do not belong together are found at once."""
    folding = Folding()
    folding.append(Entry(usage("e1")))
    folding.append(Entry(usage("e2")))
    twice = Folding(state=folding.state, offset=1)
    with pytest.raises(RowsContradict, match="already reflects offset 2"):
        twice.append(Entry(usage("e3")))


@pytest.mark.parametrize("met_at", [1, 2], ids=["by itself", "by a later record"])
def test_an_event_that_was_met_before_it_came_stops_the_worker(met_at: int) -> None:
    """Ids of an epoch whose other rows were never committed: as a duplicate of itself the event would be lost."""
    folding = Folding()
    for n in range(1, met_at + 1):
        folding.append(Entry(usage(f"e{n}")))
    without_totals = MemoryState()
    without_totals.partition, without_totals.seen = folding.state.partition, folding.state.seen
    with pytest.raises(RowsContradict, match=f"already met at offset {met_at}"):
        Folding(state=without_totals, offset=1).append(Entry(usage(f"e{met_at}")))

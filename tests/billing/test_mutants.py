"""Folds that are broken on purpose: the naive book must notice each of them, or it would not notice ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from billing.catalog.types import Catalog
from billing.errors import TimeJumped
from billing.facts import EventCounted, EventDuplicate, EventRejected, Fact, StripeHourClosed, Ticked, TotalClosed
from billing.fold import decide, evolve
from billing.periods import PeriodKind
from billing.records import Logged, Position, Tick
from billing.signing import is_signed
from billing.state import Seen, SeenKey, State
from tests.billing.harness import DAY_MS, Decide, Evolve
from tests.billing.test_model import FoldBesideBook


class _SeenUntil:
    """The ids of a state, each forgotten `window_ms` after it was accepted."""

    def __init__(self, state: State, log_ms: int, window_ms: int) -> None:
        self._state = state
        self._log_ms = log_ms
        self._window_ms = window_ms

    def __getattr__(self, family: str) -> Any:
        return self if family == "seen" else getattr(self._state, family)

    def get(self, key: SeenKey) -> Seen | None:
        row = self._state.seen.get(key)
        return None if row is None or self._log_ms >= row.accepted_at_ms + self._window_ms else row


def remembering_ids_for(window_ms: int) -> Decide:
    def broken(state: State, catalog: Catalog, logged: Logged, position: Position) -> list[Fact]:
        return decide(_SeenUntil(state, logged.log_ms, window_ms), catalog, logged, position)

    return broken


def deciding(change: Callable[[list[Fact]], list[Fact]]) -> Decide:
    """A `decide` whose facts are changed."""

    def broken(state: State, catalog: Catalog, logged: Logged, position: Position) -> list[Fact]:
        return change(decide(state, catalog, logged, position))

    return broken


def ticking_early(state: State, catalog: Catalog, logged: Logged, position: Position) -> list[Fact]:
    early = msgspec.structs.replace(logged, log_ms=logged.log_ms + DAY_MS)
    return decide(state, catalog, early if isinstance(logged.record, Tick) else logged, position)


def evolving(change: Callable[[Any], Fact | None]) -> Evolve:
    """An `evolve` that is given another fact, or none."""

    def broken(state: State, catalog: Catalog, fact: Fact, position: Position, log_ms: int) -> None:
        if (changed := change(fact)) is not None:
            evolve(state, catalog, changed, position, log_ms)

    return broken


def counted(**changed: Callable[[EventCounted], Any]) -> Evolve:
    """An `evolve` that counts events with these fields otherwise."""
    return evolving(
        lambda fact: (
            msgspec.structs.replace(fact, **{name: value(fact) for name, value in changed.items()})
            if isinstance(fact, EventCounted)
            else fact
        )
    )


def unless(kind: type[Any]) -> Evolve:
    return evolving(lambda fact: None if isinstance(fact, kind) else fact)


def by_the_year(state: State, catalog: Catalog, fact: Fact, position: Position, log_ms: int) -> None:
    (plan,) = catalog.plans.values()
    slow = msgspec.structs.replace(plan, quota_period=PeriodKind.YEAR)
    evolve(state, msgspec.structs.replace(catalog, plans={plan.ref: slow}), fact, position, log_ms)


def first_wins(state: State, catalog: Catalog, fact: Fact, position: Position, log_ms: int) -> None:
    """A repeat takes the place of what it repeats."""
    evolve(state, catalog, fact, position, log_ms)
    if isinstance(fact, EventDuplicate):
        key = SeenKey(fact.account, fact.event_id)
        row = state.seen.get(key)
        assert row is not None
        state.seen.put(key, Seen(log_ms, position.offset, row.payload_digest))


MUTANTS: dict[str, tuple[Decide, Evolve]] = {
    "ids are not remembered": (remembering_ids_for(0), evolve),
    "ids are remembered a day too short": (remembering_ids_for(34 * DAY_MS), evolve),
    "ids are remembered a millisecond too short": (remembering_ids_for(35 * DAY_MS - 1), evolve),
    "a repeat makes its id younger": (decide, first_wins),
    "failed calls are forgotten": (
        decide,
        evolving(
            lambda fact: msgspec.structs.replace(fact, payload_digest=None) if isinstance(fact, EventRejected) else fact
        ),
    ),
    "usage lands in the next hour": (decide, counted(hour=lambda fact: fact.hour + 1)),
    "late usage is booked on its own day": (decide, counted(booking_day=lambda fact: fact.hour // 24)),
    "the feature is lost": (decide, counted(feature=lambda _: "")),
    "the last meter is lost": (decide, counted(entries=lambda fact: fact.entries[:1])),
    "the digest misses the time": (decide, counted(occurred_at_us=lambda fact: fact.occurred_at_us // 1_000 * 1_000)),
    "a total is not reset when it is closed": (decide, unless(TotalClosed)),
    "a Stripe hour is not reset when it is closed": (decide, unless(StripeHourClosed)),
    "yesterday's pairs bind today": (decide, unless(Ticked)),
    "quotas are not reset": (decide, by_the_year),
    "a tick closes the day before it is over": (ticking_early, evolve),
    "a tick closes in another order": (deciding(lambda facts: [*facts[:1], *reversed(facts[1:])]), evolve),
    "a tick leaves the last one": (deciding(lambda facts: facts if len(facts) < 3 else facts[:-1]), evolve),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_book_notices_that(mutant: str) -> None:
    broken_decide, broken_evolve = MUTANTS[mutant]

    class BrokenFold(FoldBesideBook):
        decide: Decide = staticmethod(broken_decide)
        evolve: Evolve = staticmethod(broken_evolve)

    drawn_alike = settings(
        derandomize=True, database=None, max_examples=400, stateful_step_count=30, phases=[Phase.generate]
    )
    with pytest.raises(AssertionError):
        run_state_machine_as_test(BrokenFold, settings=drawn_alike)


GUARDS: dict[str, tuple[str, Any]] = {
    "an unsigned order is the operator's": ("billing.orders.fold.is_signed", lambda *_: True),
    "an order of another deployment is obeyed": (
        "billing.orders.fold.is_operators",
        lambda partition, command, key: is_signed(partition.operator_public_key, command, key),
    ),
    "an order names whatever record stands": ("billing.orders.fold._names", lambda *_: True),
    "an old order about an account holds again": ("billing.orders.fold._refusal", lambda *_: None),
    "a quarantined account's events count": ("billing.fold.is_aside", lambda *_: False),
    "what is due of a quarantined account closes": ("billing.fold.accounts_aside", lambda _: frozenset()),
    "a record that is set aside is decided": ("billing.step.facts_aside", lambda record: [Ticked(more=False)]),
    "a record that is set aside carries log time": ("billing.step.QuarantineRecord", type("Nothing", (), {})),
    "log time goes back": ("billing.step._log_ms", lambda _previous, _partition, append_ms, *_: append_ms),
    "a jump is believed": ("billing.step.JUMP_MS_MAX", 10**15),
}
"""Guards of orders and of time, each taken away: what is patched, and by what."""


@pytest.mark.parametrize("guard", GUARDS)
def test_the_book_misses(guard: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(*GUARDS[guard])
    drawn_alike = settings(
        derandomize=True, database=None, max_examples=400, stateful_step_count=30, phases=[Phase.generate]
    )
    with pytest.raises((AssertionError, pytest.fail.Exception, TimeJumped)):
        run_state_machine_as_test(FoldBesideBook, settings=drawn_alike)

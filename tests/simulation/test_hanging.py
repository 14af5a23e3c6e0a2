"""Transactions whose markers are lost: they hang until the next marker of their id, which ends them either way."""

from __future__ import annotations

from billing.records import Tick
from schemas.codec import encode
from tests.simulation import model
from tests.simulation.plan import LOST_MARKERS, START_MS, Plan, record_of
from tests.simulation.steps import Action, Away, Effect, Fault, Join, Record, Send, Step
from tests.simulation.world import play

EVENT = Send(record_of(model.Event("acme/alice", "e1", START_MS * 1_000, home=0, meter="calls")))
TICK = Send(Record(0, None, encode(Tick(0)), model.Tick()))


def history(*actions: tuple[float, Action]) -> Plan:
    """Of one partition and one worker."""
    steps = [Step(number, at_s, action) for number, (at_s, action) in enumerate(actions)]
    return Plan(1, 1, 1, tuple(steps))


def test_one_that_hangs_as_a_whole_is_folded_again() -> None:
    outcome = play(
        history(
            (0, Fault(LOST_MARKERS, 2, Effect.LOST)),
            (0, Join(0)),
            (1, EVENT),
            (3, Away(0, 1.0)),
            (6, EVENT),
        )
    )
    assert any(LOST_MARKERS in line for line in outcome.told)
    assert outcome.differences == []


def test_one_that_later_ones_have_ended_keeps_its_ids() -> None:
    """The worker goes on; its next epochs have no new id, and their markers end it on the ids' changelog as well."""
    outcome = play(
        history(
            (0, Fault(LOST_MARKERS, 2, Effect.LOST)),
            (0, Join(0)),
            (1, EVENT),
            (2, TICK),
            (3, TICK),
            (4, TICK),
            (6, Away(0, 1.0, wiped=True)),
            (12, EVENT),
        )
    )
    assert outcome.differences == []

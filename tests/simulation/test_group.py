"""The group's offsets are for those who look; they come back when they have expired, without a record that brings them."""

from __future__ import annotations

import pytest

from schemas.topics import USAGE_EVENTS
from tests.simulation import world as worlds
from tests.simulation.plan import Plan
from tests.simulation.steps import Away, ForgetGroup, Join, Rebalance, Step
from tests.simulation.world import World, play

PARTITIONS = 3
EXPIRED = Plan(
    seed=1,
    partition_count=PARTITIONS,
    node_count=1,
    steps=(
        Step(0, 0.0, Join(0)),
        Step(1, 30.0, Away(0, 10.0, how="left")),
        Step(2, 35.0, ForgetGroup(reset=False)),
        Step(3, 60.0, Rebalance()),
    ),
)
"""The only worker is away while they expire, as it must be for a broker to drop them. Nobody sends anything;
the last step only lets time pass."""


@pytest.fixture
def lived(monkeypatch: pytest.MonkeyPatch) -> list[World]:
    """The worlds that were played."""
    made: list[World] = []

    class Kept(World):
        def __init__(self, *given: object) -> None:
            super().__init__(*given)  # type: ignore[arg-type]
            made.append(self)

    monkeypatch.setattr(worlds, "World", Kept)
    return made


def test_expired_offsets_come_back_although_nothing_comes(lived: list[World]) -> None:
    outcome = play(EXPIRED)
    assert outcome.differences == []
    [world] = lived
    told = {number: world.broker.group_offsets.get((USAGE_EVENTS, number)) for number in range(PARTITIONS)}
    assert told == {number: world._folded_to(number) for number in range(PARTITIONS)}


def test_without_a_tick_they_stay_away(lived: list[World], monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: the worker does not look whether the group shows where it is."""
    from streams.engine import Engine

    start = Engine.start

    def forgetful(self: Engine, taken: dict[int, object]) -> None:
        start(self, taken)  # type: ignore[arg-type]
        self._untold.clear()

    monkeypatch.setattr(Engine, "start", forgetful)
    play(EXPIRED)
    assert (USAGE_EVENTS, 0) not in lived[0].broker.group_offsets

"""Thousands of seeded histories: whatever dies, the books are exactly the model's."""

from __future__ import annotations

import os
import random
import time
from collections import Counter

import pytest

from tests.simulation.plan import plan_of
from tests.simulation.telling import minimal_history
from tests.simulation.world import play

SEED = int(os.environ.get("SIMULATION_SEED", random.SystemRandom().randrange(1 << 40)))
HISTORIES = int(os.environ.get("SIMULATION_HISTORIES", "2000"))
SECONDS_MAX = 180.0
"""On a busy machine fewer histories are told, rather than the whole of the tests held up."""
PART_COUNT = 4


@pytest.mark.parametrize("part", range(PART_COUNT))
def test_no_history_ends_with_a_difference(part: int) -> None:
    counts: Counter[str] = Counter()
    deadline_s = time.monotonic() + SECONDS_MAX / PART_COUNT
    told_count = 0
    for seed in range(SEED + part, SEED + HISTORIES, PART_COUNT):
        outcome = play(plan_of(seed))
        if outcome.differences:
            pytest.fail(f"SIMULATION_SEED={SEED}\n{minimal_history(plan_of(seed))}")
        counts += outcome.counts
        told_count += 1
        if time.monotonic() > deadline_s and "SIMULATION_HISTORIES" not in os.environ:
            break
    print(f"SIMULATION_SEED={SEED}: {told_count} histories, {dict(counts)}")  # noqa: T201  shown with a failure
    assert told_count > 0
    if told_count > 50:
        assert all(counts[what] > 0 for what in ("kills", "zombies", "pauses", "stops", "rebalances")), counts


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_history_happens_the_same_way_every_time(seed: int) -> None:
    first, second = play(plan_of(seed)), play(plan_of(seed))
    assert (first.told, first.counts, first.reached) == (second.told, second.counts, second.reached)

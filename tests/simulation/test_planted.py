"""The simulator notices when a promise is broken: each planted fault is found within a number of histories."""

from __future__ import annotations

import pytest

from tests.simulation.plan import plan_of
from tests.simulation.planted import FAULTS
from tests.simulation.world import play

HISTORIES_MAX = 300


@pytest.mark.parametrize("name", FAULTS)
def test_it_is_found(name: str) -> None:
    with FAULTS[name]():
        found = next((seed for seed in range(HISTORIES_MAX) if play(plan_of(seed)).differences), None)
    assert found is not None, f"{name}: {HISTORIES_MAX} histories, and no difference"
    assert play(plan_of(found)).differences == [], "the difference is the fault's"

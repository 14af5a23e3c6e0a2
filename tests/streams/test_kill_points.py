"""SIGKILL at each gap of the durability order: what is committed is whole, and the next life goes on exactly."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest

from streams.epoch import GAPS
from tests.streams.audit import differences, disk_differences, settled_differences
from tests.streams.conftest import MakeWorld
from tests.streams.world import make_events

pytestmark = [pytest.mark.broker, pytest.mark.faults]


def test_a_kill_at_each_gap_leaves_whole_epochs_and_the_end_is_exact(make_world: MakeWorld, rng: random.Random) -> None:
    """One life a gap, on the state that the lives before it left: the first meets an empty ledger."""
    world = make_world(3)
    worker = world.worker("one", instance_id="one")
    for life, gap in enumerate(GAPS):
        world.produce(make_events(rng, 1_000))
        exit_code = worker.start(die_at=gap, die_at_count=1 if life == 0 else 2).wait_exit()
        assert exit_code == -signal.SIGKILL, worker.log_tail()
        assert settled_differences(world) == [], f"after a kill at gap {gap!r}"
    worker.start()
    world.wait_all_folded(worker)
    assert worker.stop() == 0, worker.log_tail()
    assert differences(world, complete=True) == []
    assert disk_differences(world, Path(worker.plan.data_dir), [0, 1, 2]) == []

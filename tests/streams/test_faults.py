"""Workers killed, stopped, joined and replaced under load: the outcome is exact, and nothing is in it twice."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest

from streams.exit import EXIT_SURPRISE
from tests.streams.audit import differences, disk_differences
from tests.streams.conftest import MakeWorld
from tests.streams.world import make_events

pytestmark = [pytest.mark.broker, pytest.mark.faults]


def test_kills_at_random_moments_and_a_wiped_disk(make_world: MakeWorld, rng: random.Random) -> None:
    world = make_world(4)
    worker = world.worker("one", instance_id="one").start()
    kill_at = sorted(rng.sample(range(500, 18_000), 4))
    with world.load(make_events(rng, 20_000), rate=6_000):
        for folded_count in kill_at:
            world.wait_folded(folded_count, worker)
            worker.kill()
            if folded_count == kill_at[-1]:
                worker.wipe()
            worker.start()
    world.wait_all_folded(worker.wait_owner(of_count=4))
    assert worker.stop(signal.SIGINT) == 0, worker.log_tail()
    assert differences(world, complete=True) == []
    assert disk_differences(world, Path(worker.plan.data_dir), [0, 1, 2, 3]) == []


def test_two_workers_join_die_come_back_and_leave(make_world: MakeWorld, rng: random.Random) -> None:
    world = make_world(4)
    one, two = world.worker("one"), world.worker("two")
    joins, dies, leaves = sorted(rng.sample(range(1_000, 20_000), 3))
    with world.load(make_events(rng, 24_000), rate=4_000):
        one.start()
        world.wait_folded(joins, one)
        two.start().wait_owner()
        world.wait_folded(dies, one, two)
        one.kill()
        two.wait_owner(of_count=4)
        one.start().wait_owner()
        world.wait_folded(leaves, one, two)
        assert two.stop() == 0, two.log_tail()
        one.wait_owner(of_count=4)
    world.wait_all_folded(one)
    assert one.stop() == 0, one.log_tail()
    assert differences(world, complete=True) == []
    assert disk_differences(world, Path(one.plan.data_dir), [0, 1, 2, 3]) == []


@pytest.mark.parametrize("gap", ["acknowledged", "committed"])
def test_a_worker_that_was_replaced_without_noticing_commits_nothing(
    make_world: MakeWorld, rng: random.Random, gap: str
) -> None:
    """Stopped in the middle of an epoch until another has taken all over and gone on; then it wakes up."""
    world = make_world(2)
    world.produce(make_events(rng, 6_000))
    zombie = world.worker("zombie").start(die_at=gap, die_at_count=3, die_by=signal.SIGSTOP)
    zombie.wait_stopped_by_signal()
    heir = world.worker("heir").start()
    world.wait_all_folded(heir)
    world.produce(make_events(rng, 1_000))
    world.wait_all_folded(heir)
    assert differences(world, complete=True) == []
    zombie.process.send_signal(signal.SIGCONT)
    assert zombie.wait_exit() == EXIT_SURPRISE, zombie.log_tail()
    assert heir.stop() == 0, heir.log_tail()
    assert differences(world, complete=True) == [], "the zombie wrote after it was replaced"

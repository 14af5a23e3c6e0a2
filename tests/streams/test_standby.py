"""A standby takes a partition over exactly, and has nearly nothing to read for it, whatever happened to it before."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.streams.audit import differences, disk_differences
from tests.streams.conftest import MakeWorld
from tests.streams.world import Worker, World, make_events

pytestmark = [pytest.mark.broker, pytest.mark.faults]


def changelog_end(world: World) -> int:
    """Records that all changelogs hold."""
    return sum(len(log) for logs in world.read(*world.topics.changelogs.values()).values() for log in logs.values())


def promoted(world: World, heir: Worker) -> None:
    """The heir's last load read a small part of what lies on the changelogs."""
    heir.wait_owner(of_count=world.partitions)
    read_count = heir.said("partitions.loaded")[-1]["changelog_records"]
    whole = changelog_end(world)
    assert read_count < whole / 2, f"a standby that was ready read {read_count} of {whole} records anew"


@pytest.mark.parametrize("turn", range(3))
def test_a_standby_is_promoted_under_load(make_world: MakeWorld, rng: random.Random, turn: int) -> None:
    """The owner is killed; the standby before it was killed in the middle, and once wiped. Roles are sure: one partition."""
    world = make_world(1)
    one, two = world.worker("one"), world.worker("two")
    dies, wiped, owner_dies = sorted(rng.sample(range(2_000, 16_000), 3))
    with world.load(make_events(rng, 30_000), rate=2_500):
        one.start().wait_owner()
        two.start().wait_said("partitions.standby")
        world.wait_folded(dies, one, two)
        two.kill()
        two.start().wait_said("standby.ready")
        world.wait_folded(wiped, one, two)
        two.kill()
        two.wipe()
        two.start().wait_said("standby.ready")
        world.wait_folded(owner_dies, one, two)
        one.kill()
        promoted(world, two)
        one.start().wait_said("standby.ready")
    world.wait_all_folded(two)
    assert two.stop() == 0, two.log_tail()
    promoted(world, one)
    assert one.stop() == 0, one.log_tail()
    assert differences(world, complete=True) == []
    assert disk_differences(world, Path(one.plan.data_dir), [0]) == [], "what followed has what the changelogs say"
    assert disk_differences(world, Path(two.plan.data_dir), [0]) == []


def test_workers_that_join_and_leave_stand_by_for_each_other(make_world: MakeWorld, rng: random.Random) -> None:
    world = make_world(4)
    one, two = world.worker("one"), world.worker("two")
    with world.load(make_events(rng, 16_000), rate=3_000):
        one.start().wait_owner(of_count=4)
        two.start().wait_owner(of_count=2).wait_said("standby.ready")
        one.wait_said("standby.ready")
        assert not set(one.said("partitions.standby")[-1]["partitions"]) & set(
            two.said("partitions.standby")[-1]["partitions"]
        )
        assert one.stop() == 0, one.log_tail()
        promoted(world, two)
        one.start().wait_owner(of_count=2)
    world.wait_all_folded(one, two)
    for worker in (one, two):
        assert worker.stop() == 0, worker.log_tail()
    assert differences(world, complete=True) == []


def test_without_standbys_nothing_is_followed(make_world: MakeWorld, rng: random.Random) -> None:
    world = make_world(2)
    world.produce(make_events(rng, 500))
    one, two = world.worker("one", standby_replicas=0), world.worker("two", standby_replicas=0)
    one.start().wait_owner(of_count=2)
    two.start().wait_owner()
    world.wait_all_folded(one, two)
    assert not one.said("partitions.standby") + two.said("partitions.standby")
    for worker in (one, two):
        assert worker.stop() == 0, worker.log_tail()
    assert differences(world, complete=True) == []


def test_three_workers_share_four_partitions(make_world: MakeWorld) -> None:
    world = make_world(4)
    workers = [world.worker(name).start().wait_owner() for name in ("one", "two", "three")]
    for worker in workers:
        assert worker.stop() == 0, worker.log_tail()

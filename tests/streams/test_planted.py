"""The tests of this room notice what they are there for: engines with a fault planted are found out."""

from __future__ import annotations

import random
import signal

import pytest

from streams.exit import EXIT_SURPRISE
from tests.streams.audit import differences
from tests.streams.conftest import MakeWorld
from tests.streams.world import World, make_events

pytestmark = [pytest.mark.broker, pytest.mark.faults]


def killed_once(make_world: MakeWorld, rng: random.Random, fault: str) -> World:
    """A world whose worker had `fault`, and was killed where it hurts; then a sound one folds what it can."""
    world = make_world(1)
    world.produce(make_events(rng, 3_000))
    worker = world.worker("one", instance_id="one")
    broken = worker.start(planted=fault, die_at="planted", die_at_count=2)
    assert broken.wait_exit() == -signal.SIGKILL, broken.log_tail()
    world.produce(make_events(rng, 1_000))
    return world


@pytest.mark.parametrize("fault", ["rows before commit", "commit not awaited", "position apart"])
def test_a_commit_in_another_order_is_found_by_the_audit(make_world: MakeWorld, rng: random.Random, fault: str) -> None:
    world = killed_once(make_world, rng, fault)
    (worker,) = world.workers
    world.wait_all_folded(worker.start(planted="tables not compared"))
    assert worker.stop() == 0, worker.log_tail()
    assert differences(world, complete=True) != []


@pytest.mark.parametrize("fault", ["rows before commit", "commit not awaited"])
def test_rows_of_an_epoch_that_never_was_are_found_by_the_heir(
    make_world: MakeWorld, rng: random.Random, fault: str
) -> None:
    """The second line of defence: a take-over compares its tables with their changelogs."""
    world = killed_once(make_world, rng, fault)
    (worker,) = world.workers
    world.wait_all_folded(worker.start())
    assert worker.stop() == 0, worker.log_tail()
    assert differences(world, complete=True) == []


def test_an_offset_committed_before_its_facts_stops_the_next_worker(make_world: MakeWorld, rng: random.Random) -> None:
    """Whoever went on from the group's offset would lose the epoch; here the position row contradicts it."""
    world = killed_once(make_world, rng, "offset before facts")
    (worker,) = world.workers
    assert worker.start().wait_exit() == EXIT_SURPRISE
    assert "the group committed" in worker.log()


@pytest.mark.parametrize("fault", ["fetch before seek", "dropped run"])
def test_records_that_pass_by_the_fold_stop_the_worker(make_world: MakeWorld, rng: random.Random, fault: str) -> None:
    """The run that follows does not begin where the last one ended; a sound worker then folds everything."""
    world = make_world(1)
    world.produce(make_events(rng, 500))
    worker = world.worker("one", instance_id="one").start()
    world.wait_all_folded(worker)  # so that the group has an offset: without one nothing can be fetched before a seek
    worker.kill()
    world.produce(make_events(rng, 4_000))
    assert worker.start(planted=fault).wait_exit() == EXIT_SURPRISE
    assert "RecordsLost" in worker.log()
    world.wait_all_folded(worker.start())
    assert worker.stop() == 0, worker.log_tail()
    assert differences(world, complete=True) == []


def test_without_that_guard_the_audit_finds_the_lost_records(make_world: MakeWorld, rng: random.Random) -> None:
    world = make_world(1)
    world.produce(make_events(rng, 4_000))
    worker = world.worker("one").start(planted="dropped run, unguarded")
    world.wait_all_folded(worker)
    assert worker.stop() == 0, worker.log_tail()
    assert differences(world, complete=True) != []

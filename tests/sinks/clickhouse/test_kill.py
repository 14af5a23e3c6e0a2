"""SIGKILL of the sink, at each step of a write and at any moment under load: what is stored in the end is exact.

The sinks here go back no further than their position, since the 15 minutes that a start reads again would hide a
position that was stored too early.
"""

from __future__ import annotations

import random
import signal
import threading
from collections.abc import Sequence

import pytest

from tests.sinks.clickhouse.usage import Usage
from tests.sinks.clickhouse.world import World, assert_equal, wait_random
from tests.support.fold_log import Epoch

pytestmark = [pytest.mark.broker, pytest.mark.faults]

STEPS = range(10)
"""Before and behind each insert of a batch: four tables, then positions."""
NO_REWIND = {"settings": {"rewind_ms": 0}}


def kill_at_steps(world: World, steps: Sequence[int], seed: int, planted: str | None = None) -> None:
    """One sink after the other dies at a step of its own, in a seeded order; the last one lives."""
    rng = random.Random(seed)
    usage = Usage(rng)
    for step in rng.sample(steps, len(steps)):
        usage.add(60)
        world.produce(usage.log.take())
        dying = world.start_sink(die_at=step, planted=planted, **NO_REWIND)
        assert dying.wait(30) == -signal.SIGKILL, world.sink_log()
    world.wait_caught_up(world.start_sink(**NO_REWIND))
    assert_equal(world.books(), usage.model.books)


def test_killed_at_each_step_of_a_write_it_loses_and_doubles_nothing(world: World) -> None:
    kill_at_steps(world, STEPS, seed=11)


def test_a_position_stored_before_its_rows_is_found_out(world: World) -> None:
    with pytest.raises(AssertionError, match="missing"):
        kill_at_steps(world, STEPS[:3], seed=11, planted="position_first")


@pytest.mark.parametrize("seed", [21])
def test_killed_at_any_moment_under_load_it_loses_and_doubles_nothing(world: World, seed: int) -> None:
    rng = random.Random(seed)
    usage = Usage(random.Random(seed))
    enough = threading.Event()

    def load() -> None:
        while not enough.is_set():
            usage.add(40)
            if usage.rng.random() < 0.2:
                world.produce(_strangers(usage), abort=True)
            world.produce(usage.log.take())

    producer = threading.Thread(target=load)
    producer.start()
    try:
        for _ in range(5):
            dying = world.start_sink(**NO_REWIND)
            wait_random(dying, rng.uniform(0.8, 2.5))
            assert dying.poll() is None, world.sink_log()
            dying.kill()
            dying.wait(10)
    finally:
        enough.set()
        producer.join(30)
    world.wait_caught_up(world.start_sink(**NO_REWIND))
    assert len(usage.model.books.events) > 1_000, "there was hardly any load"
    assert_equal(world.books(), usage.model.books)


def test_two_sinks_at_once_leave_what_one_does(world: World) -> None:
    usage = Usage(random.Random(41))
    usage.add(200)
    world.produce(usage.log.take())
    both = [world.start_sink(), world.start_sink()]
    for _ in range(5):
        usage.add(100)
        world.produce(usage.log.take())
    world.wait_caught_up()
    assert_equal(world.books(), usage.model.books)
    assert [sink.poll() for sink in both] == [None, None], world.sink_log()


def _strangers(usage: Usage) -> Epoch:
    """Facts that are never committed: another history of the same offsets."""
    other = Usage(random.Random(usage.number))
    other.add(20)
    return other.log.take()

"""The sink end to end, on a real broker and a real engine: its views answer as the naive model does."""

from __future__ import annotations

import random

import pytest

from tests.sinks.clickhouse.usage import Usage
from tests.sinks.clickhouse.world import World, assert_equal

pytestmark = pytest.mark.broker


def test_the_views_hold_exactly_what_the_log_says(world: World) -> None:
    usage = Usage(random.Random(1))
    sink = world.start_sink()
    for _ in range(5):
        usage.add(100)
        world.produce(usage.log.take())
    world.wait_caught_up(sink)
    assert_equal(world.books(), usage.model.books)

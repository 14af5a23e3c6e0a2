"""A world of its own for each test."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runtime.embedded.kafka import EmbeddedKafka
from tests.streams.world import World

MakeWorld = Callable[[int], World]


@pytest.fixture
def make_world(kafka: EmbeddedKafka, tmp_path: Path) -> Iterator[MakeWorld]:
    """Make a world of so many partitions; its workers do not outlive the test."""
    made: list[World] = []

    def make(partitions: int) -> World:
        made.append(World(kafka.bootstrap_servers, tmp_path / str(len(made)), partitions))
        return made[-1]

    yield make
    for world in made:
        world.close()


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """Seeded by the test's name, or by METERLOG_TEST_SEED for other moments; the seed shows when it fails."""
    seed = os.environ.get("METERLOG_TEST_SEED", request.node.name)
    print(f"seed: {seed!r}")  # noqa: T201  pytest shows it with a failure
    return random.Random(seed)

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.embedded.clickhouse import Endpoint
from runtime.embedded.kafka import EmbeddedKafka
from tests.sinks.clickhouse.world import World


@pytest.fixture
def world(kafka: EmbeddedKafka, clickhouse: Endpoint, tmp_path: Path) -> Iterator[World]:
    """Topics and a database of the test's own; its sinks end with it."""
    made = World(kafka.bootstrap_servers, clickhouse, tmp_path)
    made.make_topics()
    yield made
    made.stop()
    made.query("DROP DATABASE IF EXISTS {db} SYNC")

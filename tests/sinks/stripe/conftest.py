"""A broker of this folder's own, since the sink's topics and its transactional id have fixed names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.embedded.kafka import EmbeddedKafka
from tests.sinks.stripe.world import make_topics


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[str]:
    """Bootstrap servers of a broker with the sink's topics, empty."""
    with EmbeddedKafka(tmp_path / "kafka") as kafka:
        make_topics(kafka.bootstrap_servers)
        yield kafka.bootstrap_servers

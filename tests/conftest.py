"""Real parts for every test that needs them; each is started once a session, when the first test asks for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from runtime.embedded.kafka import EmbeddedKafka


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedKafka]:
    """A broker that serves. Tests share it: name topics uniquely, and do not stop it (make your own for that)."""
    with EmbeddedKafka(tmp_path_factory.mktemp("kafka")) as broker:
        yield broker

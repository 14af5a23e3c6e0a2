"""Real parts for every test that needs them; each is started once a session, when the first test asks for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings

from runtime.embedded.kafka import EmbeddedKafka

# Examples are drawn anew in each run; a failure prints the blob that draws it again. No deadline: cores are shared.
settings.register_profile("meterlog", deadline=None, print_blob=True)
settings.load_profile("meterlog")


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedKafka]:
    """A broker that serves. Tests share it: name topics uniquely, and do not stop it (make your own for that)."""
    with EmbeddedKafka(tmp_path_factory.mktemp("kafka")) as broker:
        yield broker

"""Real parts for every test that needs them; each is started once a session, when the first test asks for it."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from runtime.embedded.clickhouse import Endpoint, endpoint, is_ready
from runtime.embedded.kafka import EmbeddedKafka
from runtime.launch import spawn
from tests.waiting import wait_until

# Examples are drawn anew in each run; a failure prints the blob that draws it again. No limit of time: cores are shared.
settings.register_profile("meterlog", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("meterlog")


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedKafka]:
    """A broker that serves. Tests share it: name topics uniquely, and do not stop it (make your own for that)."""
    with EmbeddedKafka(tmp_path_factory.mktemp("kafka")) as broker:
        yield broker


@pytest.fixture(scope="session")
def clickhouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """A ClickHouse that serves. Tests share it: make a database of your own, or name tables uniquely."""
    data_dir = tmp_path_factory.mktemp("clickhouse")
    at = endpoint(data_dir)
    argv = [sys.executable, "-m", "runtime.embedded.clickhouse", "--data-dir", str(data_dir), "--port", str(at.port)]
    process = spawn(argv, log_file=data_dir / "server.log")
    try:
        wait_until(lambda: is_ready(at) or process.poll() is not None, "ClickHouse answers")
        assert process.poll() is None, (data_dir / "server.log").read_text()
        yield at
    finally:
        process.terminate()
        process.wait(30)

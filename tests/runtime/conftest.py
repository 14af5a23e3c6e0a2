"""A client of the shared ClickHouse, for the tests of what it answers."""

from __future__ import annotations

from collections.abc import Iterator

import clickhouse_connect
import pytest
from clickhouse_connect.driver.client import Client

from runtime.embedded.clickhouse import Endpoint


@pytest.fixture(scope="module")
def client(clickhouse: Endpoint) -> Iterator[Client]:
    """clickhouse-connect's own client, as any user has it."""
    made = clickhouse_connect.get_client(
        host=clickhouse.host,
        port=clickhouse.port,
        username=clickhouse.user,
        password=clickhouse.password,
        database=clickhouse.database,
    )
    yield made
    made.close()

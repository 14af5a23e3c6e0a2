"""A broker and an API process that the tests of this room share; each test uses an organisation of its own."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator

import httpx
import pytest

from api.keys import create_key
from runtime.embedded.clickhouse import Endpoint
from runtime.embedded.kafka import EmbeddedKafka
from runtime.topics import create_topics
from tests.api.process import PARTITIONS, ApiProcess
from tests.api.tables import make_tables
from tests.waiting import wait_until

DATABASE = "api_tests"
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A broker of this room's own, with the deployment's topics: their names are fixed. Its bootstrap servers."""
    with EmbeddedKafka(tmp_path_factory.mktemp("api-kafka")) as kafka:
        create_topics(kafka.bootstrap_servers, PARTITIONS, 1, b"k" * 32)
        yield kafka.bootstrap_servers


@pytest.fixture(scope="session")
def clickhouse_settings(clickhouse: Endpoint) -> dict[str, str]:
    """How an API finds the shared ClickHouse: a database of this room's own, with the sink's tables and views."""
    settings = {
        "clickhouse_url": clickhouse.url,
        "clickhouse_user": clickhouse.user,
        "clickhouse_password": clickhouse.password,
        "clickhouse_database": DATABASE,
    }
    make_tables(settings)
    return settings


@pytest.fixture(scope="session")
def api(
    tmp_path_factory: pytest.TempPathFactory, broker: str, clickhouse_settings: dict[str, str]
) -> Iterator[ApiProcess]:
    """A serving API."""
    with ApiProcess(tmp_path_factory.mktemp("api"), bootstrap_servers=broker, **clickhouse_settings) as process:
        yield process.wait_for_keys()


@pytest.fixture
def org() -> str:
    """An organisation that no other test uses."""
    return f"org-{next(_numbers)}"


@pytest.fixture
def client(api: ApiProcess, broker: str, org: str) -> Iterator[httpx.Client]:
    """A client with a key of `org` that may ingest and read."""
    made = keyed_client(api, broker, org, "ingest", "read")
    yield made
    made.close()


@pytest.fixture
def new_client(api: ApiProcess, broker: str) -> Iterator[Callable[..., httpx.Client]]:
    """Makes clients: `new_client(org, *scopes)`."""
    made: list[httpx.Client] = []

    def make(org: str, *scopes: str) -> httpx.Client:
        made.append(keyed_client(api, broker, org, *scopes))
        return made[-1]

    yield make
    for each in made:
        each.close()


def keyed_client(api: ApiProcess, broker: str, org: str, *scopes: str) -> httpx.Client:
    token = create_key(broker, org, scopes, time.time_ns() // 1_000_000)["key"]
    client = httpx.Client(base_url=api.url, headers={"Authorization": f"Bearer {token}"}, timeout=30)
    wait_until(lambda: client.post("/v1/events").status_code != 401, "the new key is known")
    return client

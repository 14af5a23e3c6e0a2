"""`meterlog replay` against a broker: from the genesis, from a month's snapshot, and what it says where it cannot."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator

import pytest
from confluent_kafka import Producer
from rich.console import Console

from runtime.embedded.kafka import EmbeddedKafka
from runtime.errors import CommandError
from runtime.replay import PartitionReplay
from runtime.replaying import run_replay
from runtime.topics import create_topics
from schemas.topics import LEDGER, USAGE_TOTALS
from tests.billing.harness import CATALOG
from tests.runtime.test_snapshots import Folded, months

pytestmark = pytest.mark.broker


def produce(servers: str, topic: str, records: Iterable[tuple[bytes | None, bytes]]) -> None:
    producer = Producer({"bootstrap.servers": servers, "log_level": 0})
    for key, value in records:
        producer.produce(topic, value, key, 0)
    assert producer.flush(30) == 0


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A ledger of three months, and the totals that belong to it, on topics that `topics create` made."""
    with EmbeddedKafka(tmp_path_factory.mktemp("replaying")) as kafka:
        create_topics(kafka.bootstrap_servers, 1, 1, b"k" * 32)
        folded = Folded(months())
        produce(kafka.bootstrap_servers, LEDGER, [(None, value) for value in folded.ledger])
        produce(kafka.bootstrap_servers, USAGE_TOTALS, folded.totals.items())
        yield kafka.bootstrap_servers


def replayed(servers: str, month: str | None = None, partition: int | None = None) -> PartitionReplay:
    (found,) = run_replay(servers, CATALOG, partition, Console(file=io.StringIO()), month)
    return found


def test_a_month_is_folded_again_from_its_snapshot(servers: str) -> None:
    whole, may = replayed(servers), replayed(servers, "2026-05", 0)
    assert (whole.difference, may.difference) == (None, None)
    assert whole.rebuilt == 0
    assert 0 < may.records < whole.records
    assert may.last == whole.last


@pytest.mark.parametrize(
    ("month", "partition", "says"),
    [
        ("2026-02", None, "ledger/0 has no snapshot of that month"),
        ("May", None, "--from: 'May' is no month; give one as 2026-11"),
        (None, 7, "--partition: the ledger has the partitions 0 to 0"),
    ],
    ids=["a month without one", "no month", "no partition"],
)
def test_what_cannot_be_folded_again_says_why(
    servers: str, month: str | None, partition: int | None, says: str
) -> None:
    with pytest.raises(CommandError, match=says):
        replayed(servers, month, partition)

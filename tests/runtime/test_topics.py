"""The topics are made once, with their settings and a genesis; one that differs is an error that names both."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from billing.records import Genesis
from runtime.embedded.kafka import EmbeddedKafka
from runtime.errors import TopicsDiffer
from runtime.logs import read
from runtime.topics import create_topics, operator_key, public_bytes
from schemas.codec import decode, encode
from schemas.topics import LEDGER, TOPICS, USAGE_EVENTS

KEY = b"k" * 32
SETTINGS = next(topic.settings for topic in TOPICS if topic.name == USAGE_EVENTS)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[EmbeddedKafka]:
    """A broker of its own: the topics have fixed names."""
    with EmbeddedKafka(tmp_path / "kafka") as own:
        yield own


def test_topics_are_made_once_each_partition_with_one_genesis(broker: EmbeddedKafka) -> None:
    servers = broker.bootstrap_servers
    assert create_topics(servers, 3, 1, KEY) == [topic.name for topic in TOPICS]
    assert create_topics(servers, 3, 1, KEY) == []
    found = [[decode(record.value) for record in read(servers, USAGE_EVENTS, p)] for p in range(3)]
    (first,) = found[0]
    assert isinstance(first, Genesis)
    assert (first.incarnation, first.partition_count, first.operator_public_key) == (1, 3, KEY)
    assert found == [[first]] * 3


def test_a_genesis_that_was_begun_and_never_committed_is_written_anew(broker: EmbeddedKafka) -> None:
    """`topics create` was killed: its records take offsets, and nobody is ever given them."""
    servers = broker.bootstrap_servers
    admin = AdminClient({"bootstrap.servers": servers})
    admin.create_topics([NewTopic(USAGE_EVENTS, 3, 1, config=SETTINGS)])[USAGE_EVENTS].result(15)
    killed = Producer({"bootstrap.servers": servers, "transactional.id": "meterlog-genesis"})
    killed.init_transactions(15)
    killed.begin_transaction()
    for partition in range(3):
        killed.produce(USAGE_EVENTS, encode(Genesis("killed", 1, 3, KEY)), partition=partition)
    assert killed.flush(15) == 0
    create_topics(servers, 3, 1, KEY)
    (genesis,) = {decode(record.value) for p in range(3) for record in read(servers, USAGE_EVENTS, p)}
    assert isinstance(genesis, Genesis)
    assert genesis.deployment_id != "killed"


def test_a_topic_with_other_settings_is_an_error_that_names_both(broker: EmbeddedKafka) -> None:
    admin = AdminClient({"bootstrap.servers": broker.bootstrap_servers})
    made = admin.create_topics([NewTopic(LEDGER, 2, 1, config={"retention.ms": "1000"})])
    made[LEDGER].result(15)
    with pytest.raises(TopicsDiffer) as refused:
        create_topics(broker.bootstrap_servers, 3, 1, KEY)
    assert "ledger has 2 partitions, not 3" in str(refused.value)
    assert "ledger has retention.ms=1000, not -1" in str(refused.value)


def test_the_operators_key_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "operator.key"
    made = public_bytes(operator_key(path))
    assert path.stat().st_mode & 0o777 == 0o600
    assert public_bytes(operator_key(path)) == made
    assert len(made) == 32

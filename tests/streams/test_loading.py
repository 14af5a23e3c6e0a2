"""Tables come back from their changelogs exactly, while the broker's cleaner takes rows and deletions out of them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiokafka.structs import TopicPartition
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from runtime.embedded.kafka import EmbeddedKafka
from streams.loader import catch_up, load
from streams.log_reader import LogReader
from streams.tables import PartitionTable, TableFiles
from tests.streams.world import wait_until

pytestmark = pytest.mark.broker

TP = TopicPartition("changelog", 0)
ROWS_PER_ROUND = 2_000
KEYS = 400
NOW_MS, AGE_MS = 1_000, 7 * 86_400_000


@pytest.fixture
def kafka_that_cleans(tmp_path: Path) -> Iterator[EmbeddedKafka]:
    with EmbeddedKafka(tmp_path / "kafka", overrides={"log.cleaner.backoff.ms": 50}) as kafka:
        settings = {
            "cleanup.policy": "compact",
            "segment.bytes": str(1 << 20),
            "min.cleanable.dirty.ratio": "0.01",
            "delete.retention.ms": "0",  # tombstones go with the second cleaning
        }
        admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers, "log_level": 0})
        admin.create_topics([NewTopic(TP.topic, 1, 1, config=settings)])[TP.topic].result()
        yield kafka


def committed_round(producer: Producer, rng: random.Random, model: dict[bytes, bytes]) -> None:
    """One transaction of rows, two of five of them deletions; and an aborted one, of which nothing may be seen."""
    producer.begin_transaction()
    for _ in range(ROWS_PER_ROUND):
        key = b"%06d" % rng.randrange(KEYS)
        value = None if rng.random() < 0.4 else rng.randbytes(1_000)
        producer.produce(TP.topic, value, key, partition=0)
        if value is None:
            model.pop(key, None)
        else:
            model[key] = value
    producer.commit_transaction()
    producer.begin_transaction()
    producer.produce(TP.topic, b"aborted", b"%06d" % rng.randrange(KEYS), partition=0)
    producer.abort_transaction()


async def loaded(servers: str, table: PartitionTable, *, as_standby: bool = False) -> int:
    async with LogReader(servers) as reader:
        return await (catch_up if as_standby else load)(reader, {TP: table}, NOW_MS, AGE_MS)


def rows_of(table: PartitionTable) -> dict[bytes, bytes]:
    return dict(table.scan(b"0", b"9", KEYS + 1))


def test_a_table_is_exact_while_its_changelog_is_compacted(
    kafka_that_cleans: EmbeddedKafka, tmp_path: Path, rng: random.Random
) -> None:
    servers, model = kafka_that_cleans.bootstrap_servers, dict[bytes, bytes]()
    producer = Producer({"bootstrap.servers": servers, "transactional.id": "load", "log_level": 0})
    producer.init_transactions()
    kept, followed = (TableFiles(tmp_path / name, 1 << 20).get("accounts", 0) for name in ("kept", "followed"))
    read_counts: list[int] = []

    def fresh_load() -> int:
        table = TableFiles(tmp_path / f"fresh-{len(read_counts)}", 1 << 20).get("accounts", 0)
        read_counts.append(asyncio.run(loaded(servers, table)))
        assert rows_of(table) == model
        return read_counts[-1]

    for number in range(1, 9):
        committed_round(producer, rng, model)
        fresh_load()
        asyncio.run(loaded(servers, kept))
        assert rows_of(kept) == model
        if number % 3 == 0:
            asyncio.run(loaded(servers, followed, as_standby=True))
            assert rows_of(followed) == model
    # The last segments are never cleaned: what is left is far less than was written, and lacks rows that were deleted.
    wait_until("the cleaner has taken most of it", lambda: fresh_load() < 8 * ROWS_PER_ROUND / 2)
    asyncio.run(loaded(servers, kept))
    assert rows_of(kept) == model

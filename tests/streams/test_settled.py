"""Transactions that the broker called committed and never marked: they hang, and a take-over ends them first."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import aiokafka
import pytest

from runtime.embedded.kafka import EmbeddedKafka
from streams.edges import Applied
from streams.tables import TableFiles
from tests.streams.audit import differences, disk_differences
from tests.streams.toy import OFFSET, POSITION_KEY
from tests.streams.world import Worker, World, make_events

pytestmark = pytest.mark.broker

_EPOCH_ROWS = [(b"ccustomer-1", b"of an epoch that never was"), (POSITION_KEY, OFFSET.pack(150))]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """On a broker that takes records of a transaction that its coordinator knows nothing of: they hang from the start."""
    settings = {"transaction.partition.verification.enable": "false"}
    with EmbeddedKafka(tmp_path / "kafka", overrides=settings) as kafka:
        made = World(kafka.bootstrap_servers, tmp_path / "world", 1)
        yield made
        made.close()


def folded_worker(world: World, rng: random.Random) -> Worker:
    """A worker that has folded something, and was stopped."""
    world.produce(make_events(rng, 300))
    worker = world.worker("one", instance_id="one").start()
    world.wait_all_folded(worker)
    assert worker.stop() == 0, worker.log_tail()
    return worker


async def leave_hanging(world: World) -> int:
    """As the fold's own writer whose last transaction got no markers; gives the changelog's offset behind it."""
    writer = aiokafka.AIOKafkaProducer(
        bootstrap_servers=world.bootstrap_servers, transactional_id=f"{world.prefix}-fold-0", acks="all"
    )
    await writer.start()
    await writer.begin_transaction()
    manager = writer._txn_manager
    manager.maybe_add_partition_to_txn = manager._txn_partitions.add  # the coordinator is not told
    await writer.send_and_wait(world.topics.ledger, b"a fact twice", b"customer-1", partition=0)
    for key, value in _EPOCH_ROWS:
        sent = await writer.send_and_wait(world.topics.accounts_changelog, value, key, partition=0)
    await writer.stop()
    return int(sent.offset) + 1


def assert_goes_on(world: World, worker: Worker, rng: random.Random) -> None:
    world.produce(make_events(rng, 300))
    worker.start()
    world.wait_all_folded(worker)
    assert worker.stop() == 0, worker.log_tail()
    assert differences(world, complete=True) == []
    assert disk_differences(world, Path(worker.plan.data_dir), [0]) == []


def test_a_transaction_that_hangs_is_aborted_and_folded_again(world: World, rng: random.Random) -> None:
    worker = folded_worker(world, rng)
    asyncio.run(leave_hanging(world))
    assert_goes_on(world, worker, rng)
    assert "transactions.hung" in worker.log()


@pytest.mark.parametrize("fault", ["no markers on the ledger", "no markers on the ids", "no markers on the accounts"])
def test_a_transaction_that_hangs_on_some_topics_ends_there_as_it_did_on_the_others(
    world: World, rng: random.Random, fault: str
) -> None:
    worker = folded_worker(world, rng)
    world.produce(make_events(rng, 300))
    worker.start(planted=fault, die_at="committed", die_at_count=2, records_per_epoch_max=100)
    assert worker.wait_exit() == -signal.SIGKILL, worker.log_tail()
    assert_goes_on(world, worker, rng)
    assert "transactions.hung" in worker.log()


def test_tables_that_tell_of_an_aborted_transaction_are_loaded_anew(world: World, rng: random.Random) -> None:
    worker = folded_worker(world, rng)
    applied = Applied(asyncio.run(leave_hanging(world)), int(time.time() * 1_000))
    files = TableFiles(Path(worker.plan.data_dir) / "tables", 1 << 20)
    files.get("accounts", 0).apply(_EPOCH_ROWS, applied)
    files.close("accounts")
    assert_goes_on(world, worker, rng)
    assert "tables.contradicted" in worker.log()

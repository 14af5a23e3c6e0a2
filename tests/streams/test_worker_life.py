"""How a worker starts, refuses to start, and stops; what it makes of states that do not fit."""

from __future__ import annotations

import random
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from runtime.embedded.kafka import EmbeddedKafka
from streams.edges import Applied
from streams.exit import EXIT_SURPRISE
from streams.tables import TableFiles
from tests.streams.audit import differences
from tests.streams.conftest import MakeWorld
from tests.streams.worker_process import EXIT_REFUSED, Plan
from tests.streams.world import Worker, World, make_events, wait_until

pytestmark = pytest.mark.broker


def test_transactions_and_their_markers_on_the_source(make_world: MakeWorld, rng: random.Random) -> None:
    """Orders are broadcast in transactions: aborted ones are never folded, and the markers are holes in the offsets."""
    world = make_world(2)
    world.produce(make_events(rng, 500))
    world.produce(make_events(rng, 100), transaction=False)
    world.produce(make_events(rng, 500), transaction=True)
    worker = world.worker("one", records_per_epoch_max=200).start()
    world.wait_all_folded(worker)
    world.produce(make_events(rng, 100), transaction=False)
    world.produce(make_events(rng, 100))
    world.produce(make_events(rng, 10), transaction=True)
    world.wait_all_folded(worker)
    assert worker.stop() == 0, worker.log_tail()
    world.wait_all_folded(worker.start().wait_owner(of_count=2))
    assert worker.stop() == 0, worker.log_tail()
    assert differences(world, complete=True) == []


def test_work_beside_the_fold_appends_to_the_partitions_that_are_owned(make_world: MakeWorld) -> None:
    world = make_world(3)
    worker = world.worker("one").start(append_ticks=True)
    world.wait_folded(3, worker)
    assert worker.stop() == 0, worker.log_tail()
    source = world.read(world.topics.source)[world.topics.source]
    assert [[value for _, _, value in records] for records in source.values()] == [[b"tick"]] * 3
    assert differences(world, complete=True) == []


def test_a_worker_that_leaves_hands_its_partitions_over_at_once(make_world: MakeWorld, rng: random.Random) -> None:
    world = make_world(2)
    one = world.worker("one", session_timeout_s=60.0).start().wait_owner(of_count=2)
    two = world.worker("two", session_timeout_s=60.0).start().wait_owner(of_count=1)
    began = time.monotonic()
    assert one.stop() == 0, one.log_tail()
    two.wait_owner(of_count=2)
    assert time.monotonic() - began < 30, "the group waited for the session to time out"
    world.produce(make_events(rng, 200))
    world.wait_all_folded(two)
    assert two.stop() == 0, two.log_tail()


def test_a_second_worker_on_a_directory_is_refused(make_world: MakeWorld) -> None:
    world = make_world(1)
    one = world.worker("same").start().wait_owner()
    second = world.worker("same")
    second.log_file = second.log_file.with_name("second.log")
    assert second.start().wait_exit() == EXIT_REFUSED
    assert f"process {one.process.pid}" in second.log()
    assert one.stop() == 0, one.log_tail()


def test_missing_topics_and_odd_partition_counts_are_refused(make_world: MakeWorld) -> None:
    world = make_world(1)
    admin = AdminClient({"bootstrap.servers": world.bootstrap_servers})
    admin.delete_topics([world.topics.ledger])[world.topics.ledger].result()
    worker = world.worker("one")
    assert worker.start().wait_exit() == EXIT_REFUSED
    assert f"missing topics: {world.topics.ledger}" in worker.log()
    admin.create_topics([NewTopic(world.topics.ledger, 2, 1)])[world.topics.ledger].result()
    assert worker.start().wait_exit() == EXIT_REFUSED
    assert f"{{'{world.topics.ledger}': 2}}" in worker.log()


def test_no_broker_is_refused_by_name(tmp_path: Path) -> None:
    worker = Worker(Plan("127.0.0.1:1", "none", str(tmp_path / "data")), tmp_path / "log")
    assert worker.start().wait_exit() == EXIT_REFUSED
    assert "no broker answers at 127.0.0.1:1" in worker.log()


def test_state_of_another_log_stops_the_worker(make_world: MakeWorld, rng: random.Random) -> None:
    world = make_world(1)
    world.produce(make_events(rng, 200))
    worker = world.worker("one", instance_id="one").start()
    world.wait_all_folded(worker)
    assert worker.stop() == 0, worker.log_tail()
    files = TableFiles(Path(worker.plan.data_dir) / "tables", 1 << 20)
    files.get("seen", 0).apply((), Applied(10_000, int(time.time() * 1_000)))
    files.close("seen")
    assert worker.start().wait_exit() == EXIT_SURPRISE
    assert "StateForeign" in worker.log()


def test_state_too_old_for_its_deletions_is_loaded_anew(make_world: MakeWorld, rng: random.Random) -> None:
    """A row that the changelog no longer tells to delete would live for ever."""
    world = make_world(1)
    world.produce(make_events(rng, 200))
    worker = world.worker("one", instance_id="one").start()
    world.wait_all_folded(worker)
    assert worker.stop() == 0, worker.log_tail()
    files = TableFiles(Path(worker.plan.data_dir) / "tables", 1 << 20)
    applied = files.get("accounts", 0).applied
    assert applied is not None
    eight_days_ago_ms = int(time.time() * 1_000) - 8 * 86_400_000
    files.get("accounts", 0).apply([(b"cghost", b"row")], Applied(applied.next_offset, eight_days_ago_ms))
    files.close("accounts")
    worker.start().wait_owner()
    world.produce(make_events(rng, 200))
    world.wait_all_folded(worker)
    assert worker.stop() == 0, worker.log_tail()
    assert "tables.wiped" in worker.log()
    assert TableFiles(Path(worker.plan.data_dir) / "tables", 1 << 20).get("accounts", 0).get_many([b"cghost"]) == [None]
    assert differences(world, complete=True) == []


@pytest.fixture
def own_kafka(tmp_path: Path) -> Iterator[EmbeddedKafka]:
    """A broker that a test may kill."""
    with EmbeddedKafka(tmp_path / "own-kafka") as broker:
        yield broker


def test_a_broker_that_dies_comes_back_and_dies_for_good(
    own_kafka: EmbeddedKafka, tmp_path: Path, rng: random.Random
) -> None:
    """The fold goes on by itself or after a restart, exactly; and it stops without a broker, in bounded time."""
    world = World(own_kafka.bootstrap_servers, tmp_path, 2)
    world.produce(make_events(rng, 8_000))
    worker = world.worker("one", instance_id="one", records_per_epoch_max=100, stop_timeout_s=3.0).start()
    try:
        world.wait_folded(1_000, worker)
        own_kafka.kill()
        own_kafka.start()
        world.wait_all_folded(worker, supervised=True)
        assert differences(world, complete=True) == []
        world.produce(make_events(rng, 8_000))
        world.wait_folded(9_000, worker, supervised=True)
        own_kafka.kill()
        began = time.monotonic()
        worker.process.send_signal(signal.SIGTERM)
        assert worker.wait_exit() == 0, worker.log_tail()
        assert time.monotonic() - began < 15
    finally:
        world.close()
        shutil.rmtree(tmp_path / "one", ignore_errors=True)
    wait_until("the worker is gone", lambda: not worker.is_running)

"""A topic that was deleted and made anew: the fold goes on, old ids are known, totals continue; any other log stops it."""

from __future__ import annotations

import io
import time
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, NewTopic
from rich.console import Console

from billing.catalog.builtin import BUILTIN_CATALOG
from runtime.audit import Audit, audit_partition
from runtime.errors import CommandError
from runtime.ledger_log import incarnation_of
from runtime.logs import range_of, read
from runtime.replaying import run_replay
from runtime.topics import create_topics
from tests.faults.books import Ledger, read_ledger, read_topic
from tests.faults.fold import fold
from tests.faults.load import TOPIC, KafkaDoor
from tests.faults.wire import record_of
from tests.waiting import wait_until

pytestmark = [pytest.mark.broker, pytest.mark.faults]

PARTITIONS = 4
OPERATOR_KEY = bytes(32)


def delete_log(servers: str) -> None:
    admin = AdminClient({"bootstrap.servers": servers})
    admin.delete_topics([TOPIC])[TOPIC].result(30)
    wait_until(lambda: TOPIC not in admin.list_topics(timeout=10).topics, "the topic is gone")


def make_log_by_hand(servers: str) -> None:
    """Somebody's log: the right name and partitions, and no genesis."""
    admin = AdminClient({"bootstrap.servers": servers})
    admin.create_topics([NewTopic(TOPIC, PARTITIONS, 1)])[TOPIC].result(30)


def ledger_of(servers: str) -> Ledger:
    found = read_ledger(read_topic(servers, "ledger"))
    assert found.problems == []
    return found


def assert_folded_again_alike(servers: str) -> None:
    """The replay from the first incarnation on, and the audit of the one that is there."""
    again = run_replay(servers, BUILTIN_CATALOG, None, Console(file=io.StringIO()))
    assert [line.difference for line in again] == [None] * PARTITIONS
    audit = Audit()
    for partition in range(PARTITIONS):
        held, incarnation = range_of(servers, TOPIC, partition), incarnation_of(servers, partition)
        log = read(servers, TOPIC, partition, held.start, held.end)
        audit_partition(audit, BUILTIN_CATALOG, partition, log, read(servers, "ledger", partition), held, incarnation)
    assert audit.differences == []
    assert audit.holds


def test_a_log_that_was_made_anew_goes_on_and_any_other_stops_the_worker(tmp_path: Path) -> None:
    """One deployment for all of it: it takes 10 seconds to start, and what is tested is how one thing follows another."""
    with fold(tmp_path) as running:
        servers = running.bootstrap_servers
        door = KafkaDoor(servers, "incarnations", time.time_ns() // 1_000, 1_000)
        running.start()
        for _ in range(100):
            door.send(door.events.first())
        door.finish()
        running.wait_folded()
        running.stop()
        before = ledger_of(servers)
        assert before.counted.total() == 100

        delete_log(servers)
        assert create_topics(servers, PARTITIONS, 1, OPERATOR_KEY) == [TOPIC]
        assert [incarnation_of(servers, partition) for partition in range(PARTITIONS)] == [2] * PARTITIONS
        running.start()
        again = list(door.model.events.values())
        for event in again:
            door.produce(record_of(event))
        for _ in range(50):
            door.send(door.events.first())
        door.finish()
        running.wait_folded()
        running.kill()
        running.start()  # its position is one of the new log now
        door.send(door.events.first())
        door.finish()
        running.wait_folded()
        running.stop()
        after = ledger_of(servers)
        assert (after.counted.total(), set(after.counted.values())) == (151, {1}), "old ids are known"
        assert after.duplicate_count == 100
        assert after.usage == door.model.usage, "totals continue"
        assert_folded_again_alike(servers)

        delete_log(servers)
        make_log_by_hand(servers)
        door.produce(record_of(again[0]), 0)
        door.finish()
        running.start()
        assert running.wait_exit() != 0
        assert "another log, or one that was cut; bring the log back as it was" in running.log()
        assert ledger_of(servers).counted == after.counted

        delete_log(servers)
        with pytest.raises(CommandError, match="cannot continue what ledger holds: it names another operator's key"):
            create_topics(servers, PARTITIONS, 1, b"x" * 32)
        create_topics(servers, PARTITIONS, 1, OPERATOR_KEY)
        running.start()
        door.send(door.events.first())
        door.finish()
        running.wait_folded()
        running.stop()
        assert ledger_of(servers).counted.total() == 152
        assert [incarnation_of(servers, partition) for partition in range(PARTITIONS)] == [3] * PARTITIONS
        assert_folded_again_alike(servers)

"""A deployment's topics on a real broker, its database in a real engine, and the sink between them."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import clickhouse_connect
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from runtime.embedded.clickhouse import Endpoint
from runtime.launch import Process, spawn
from schemas.topics import LEDGER, TOPICS, USAGE_TOTALS
from sinks.clickhouse.settings import SinkSettings
from tests.sinks.clickhouse.model import At, Books, Use, UseKey
from tests.support.fold_log import Epoch, Produced
from tests.waiting import wait_until

__all__ = ["World", "assert_equal", "wait_random"]

EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001  as the driver gives UTC


class World:
    """Its topics and database are its own, so that tests can share the broker and the engine."""

    def __init__(self, bootstrap_servers: str, clickhouse: Endpoint, folder: Path, partition_count: int = 2) -> None:
        self.name = f"t{secrets.token_hex(6)}"
        self.folder = folder
        self.partition_count = partition_count
        self.settings = SinkSettings(
            bootstrap_servers=bootstrap_servers,
            clickhouse_url=clickhouse.url,
            clickhouse_user=clickhouse.user,
            clickhouse_password=clickhouse.password,
            database=self.name,
            ledger_topic=f"ledger-{self.name}",
            totals_topic=f"totals-{self.name}",
            interval_s=0.1,
        )
        self._producer: Producer | None = None
        self._processes: list[Process] = []

    def make_topics(self) -> None:
        self.make_topic(self.settings.ledger_topic)
        self.make_topic(self.settings.totals_topic)

    def make_topic(self, name: str) -> None:
        """With the settings that the product declares for it."""
        declared = {topic.name: topic.settings for topic in TOPICS}
        like = LEDGER if LEDGER in name else USAGE_TOTALS
        admin = AdminClient({"bootstrap.servers": self.settings.bootstrap_servers})
        for future in admin.create_topics([NewTopic(name, self.partition_count, 1, config=declared[like])]).values():
            future.result(30)

    def produce(self, epoch: Epoch, *, abort: bool = False) -> None:
        """In one transaction, as the worker does; an aborted one is there for everybody who reads too much."""
        if self._producer is None:
            config = {"bootstrap.servers": self.settings.bootstrap_servers, "transactional.id": self.name}
            self._producer = Producer({**config, "partitioner": "murmur2_random"})
            self._producer.init_transactions(30)
        self._producer.begin_transaction()
        self._put(self.settings.ledger_topic, epoch.ledger)
        self._put(self.settings.totals_topic, epoch.totals)
        if abort:
            self._producer.flush(30)
            self._producer.abort_transaction(30)
        else:
            self._producer.commit_transaction(30)

    def _put(self, topic: str, records: Sequence[Produced]) -> None:
        assert self._producer is not None, "produce() makes it"
        for partition, key, value in records:
            self._producer.produce(topic, value, key, partition=partition)
            self._producer.poll(0)

    def start_sink(self, **told: Any) -> Process:
        """The sink as a child process; `told` as `sink_process` has it."""
        settings = asdict(self.settings) | told.pop("settings", {})
        argv = [sys.executable, "-m", "tests.sinks.clickhouse.sink_process", json.dumps({"settings": settings, **told})]
        process = spawn(argv, log_file=self.folder / "sink.log")
        self._processes.append(process)
        return process

    def sink_log(self) -> str:
        return (self.folder / "sink.log").read_text()

    def stop(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.wait(10)

    def client(self) -> Any:
        settings = self.settings
        return clickhouse_connect.get_client(
            dsn=settings.clickhouse_url,
            username=settings.clickhouse_user,
            password=settings.clickhouse_password,
            autogenerate_session_id=False,
        )

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """`{db}` stands for the database."""
        rows = self.client().query(sql.replace("{db}", self.name)).result_rows
        return [tuple(row) for row in rows]

    def positions(self) -> dict[tuple[str, int], int]:
        if not self.query("SELECT 1 FROM system.tables WHERE database = '{db}' AND name = 'positions'"):
            return {}
        rows = self.query("SELECT topic, partition, next_offset FROM {db}.positions")
        return {(topic, partition): next_offset for topic, partition, next_offset in rows}

    def ends(self) -> dict[tuple[str, int], int]:
        """The end of each partition, also of what is just being committed; a sink that is up to date has reached it."""
        config = {"bootstrap.servers": self.settings.bootstrap_servers, "group.id": "ends"}
        reader = Consumer({**config, "isolation.level": "read_uncommitted"})
        partitions = [
            (topic, partition)
            for topic in (self.settings.ledger_topic, self.settings.totals_topic)
            for partition in range(self.partition_count)
        ]
        found: dict[tuple[str, int], int] = {}

        def all_answer() -> bool:
            """A topic that was just made has no leader for a moment."""
            with suppress(KafkaException):
                for topic, partition in partitions:
                    found[topic, partition] = reader.get_watermark_offsets(TopicPartition(topic, partition), 15)[1]
                return True
            return False

        try:
            wait_until(all_answer, "each partition says where it ends")
        finally:
            reader.close()
        return found

    def wait_caught_up(self, process: Process | None = None, timeout_s: float = 60.0) -> None:
        ends = self.ends()

        def caught_up() -> bool:
            if process is not None and process.poll() is not None:
                raise AssertionError(self.sink_log()[-3_000:])
            reached = self.positions()
            return all(reached.get(partition, -1) >= end for partition, end in ends.items())

        wait_until(caught_up, f"the sink is at {ends}", timeout_s)

    def books(self) -> Books:
        """What the views say."""
        events = self.query(
            "SELECT partition, offset, meter, org, customer_id, event_id, toUnixTimestamp64Micro(occurred_at), quantity,"
            " tags, properties, input_tokens, toUnixTimestamp64Milli(accepted_at) FROM {db}.events"
        )
        rejected = self.query("SELECT partition, offset, org, customer_id, reason, field FROM {db}.rejected")
        duplicates = self.query(
            "SELECT partition, offset, org, customer_id, event_id, first_offset FROM {db}.duplicates"
        )
        usage = self.query(
            "SELECT org, customer_id, meter, feature, model, hour, billing_start, quantity, event_count, digest"
            " FROM {db}.usage"
        )
        books = Books(
            {(At(*row[:2]), row[2]): (*row[3:8], tuple(row[8]), dict(row[9]), *row[10:]) for row in events},
            {At(*row[:2]): row[2:] for row in rejected},
            {At(*row[:2]): (row[2], row[3], row[4], row[5]) for row in duplicates},
            {_use_key(row): Use(*row[7:]) for row in usage},
        )
        rows = (events, rejected, duplicates, usage)
        assert [len(book) for book in books] == [len(found) for found in rows], "a view shows a row twice"
        return books


def assert_equal(found: Books, expected: Books) -> None:
    """Book by book, naming what is missing, what is too much and what differs."""
    for name in Books._fields:
        is_now: dict[Any, Any] = getattr(found, name)
        should_be: dict[Any, Any] = getattr(expected, name)
        missing = {key: should_be[key] for key in should_be.keys() - is_now.keys()}
        surplus = {key: is_now[key] for key in is_now.keys() - should_be.keys()}
        other = {k: (is_now[k], should_be[k]) for k in is_now.keys() & should_be.keys() if is_now[k] != should_be[k]}
        if is_now != should_be:
            shown = [list(items.items())[:2] for items in (missing, surplus, other)]
            message = f"{name}: {len(missing)} missing, {len(surplus)} too many, {len(other)} differ; {shown}"
            raise AssertionError(message)


def wait_random(process: Process, seconds: float) -> None:
    """Let the process work until a moment that no condition marks."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)


def _seconds(moment: datetime) -> int:
    return int((moment.replace(tzinfo=None) - EPOCH).total_seconds())


def _use_key(row: tuple[Any, ...]) -> UseKey:
    org, customer_id, meter, feature, model, hour, billing_start = row[:7]
    return UseKey(org, customer_id, meter, feature, model, _seconds(hour), _seconds(billing_start))

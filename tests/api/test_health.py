"""Health: red as soon as what is accepted is not counted any more."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from api.health import Bounds, Health, Measured, judge_health
from api.lag import Lag, LagGauge, LogUnreachable
from runtime.embedded import ports
from runtime.embedded.kafka import EmbeddedKafka
from runtime.topics import create_topics
from schemas.topics import FOLD_GROUP, LEDGER, USAGE_EVENTS, USAGE_TOTALS
from tests.api.process import PARTITIONS, ApiProcess
from tests.api.tables import insert, make_tables
from tests.waiting import wait_until

BOUNDS = Bounds(lag_records_max=100, lag_age_ms_max=60_000, stale_ms_max=15_000)
NOW_MS = 1_795_267_200_000
GOOD = Measured(NOW_MS, True, Lag(0, None), None, Lag(0, None), None)


@pytest.mark.parametrize(
    ("measured", "later_ms", "reason"),
    [
        pytest.param(None, 0, "nothing is measured", id="before the first measurement"),
        pytest.param(GOOD, 15_001, "15 s old", id="when measuring hangs"),
        pytest.param(
            Measured(NOW_MS, False, Lag(0, None), None, Lag(0, None), None), 0, "keys", id="before the keys are read"
        ),
        pytest.param(Measured(NOW_MS, True, None, "down", None, None), 0, "Kafka: down", id="without Kafka"),
        pytest.param(
            Measured(NOW_MS, True, Lag(0, None), None, None, "down"), 0, "ClickHouse: down", id="without ClickHouse"
        ),
        pytest.param(
            Measured(NOW_MS, True, Lag(1, NOW_MS - 60_001), None, Lag(0, None), None),
            0,
            "the fold has not taken in",
            id="when one event waits for more than a minute",
        ),
        pytest.param(
            Measured(NOW_MS, True, Lag(101, NOW_MS), None, Lag(0, None), None),
            0,
            "the fold is 101 records behind",
            id="when too many events wait",
        ),
        pytest.param(
            Measured(NOW_MS, True, Lag(0, None), None, Lag(1, NOW_MS - 60_001), None),
            0,
            "the ClickHouse sink has not taken in",
            id="when the sink stands still",
        ),
    ],
)
def test_health_is_red(measured: Measured | None, later_ms: int, reason: str) -> None:
    health = judge_health(measured, BOUNDS, NOW_MS + later_ms)
    assert health.status == "red"
    assert len(health.reasons) == 1
    assert reason in health.reasons[0]


@pytest.mark.parametrize(
    "measured",
    [
        pytest.param(GOOD, id="when nothing waits"),
        pytest.param(
            Measured(NOW_MS, True, Lag(100, NOW_MS - 60_000), None, Lag(100, NOW_MS - 60_000), None),
            id="at the bounds",
        ),
        pytest.param(
            Measured(NOW_MS, True, Lag(1, NOW_MS + 90_000), None, Lag(0, None), None),
            id="when the broker's clock is ahead",
        ),
    ],
)
def test_health_is_green(measured: Measured) -> None:
    health = judge_health(measured, BOUNDS, NOW_MS + 15_000)
    assert (health.status, health.reasons) == ("green", ())


def test_every_reason_is_given() -> None:
    measured = Measured(NOW_MS, False, Lag(101, 0), None, None, "down")
    assert len(judge_health(measured, BOUNDS, NOW_MS).reasons) == 4


@pytest.fixture(scope="module")
def own_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedKafka]:
    """A broker whose group offsets are this module's alone."""
    with EmbeddedKafka(tmp_path_factory.mktemp("health-kafka")) as kafka:
        create_topics(kafka.bootstrap_servers, PARTITIONS, 1, b"k" * 32)
        yield kafka


def commit(kafka: EmbeddedKafka, offsets: list[int]) -> None:
    """As the fold's worker does, once for each partition."""
    places = [TopicPartition(USAGE_EVENTS, partition, offset) for partition, offset in enumerate(offsets)]
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    [future] = admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(FOLD_GROUP, places)]).values()
    for place in future.result(10).topic_partitions:
        assert place.error is None, place.error


def produce(kafka: EmbeddedKafka, partition: int, topic: str = USAGE_EVENTS) -> None:
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers})
    producer.produce(topic, b"anything", b"o/c", partition)
    assert producer.flush(10) == 0


@pytest.fixture
def gauge(own_kafka: EmbeddedKafka) -> Iterator[LagGauge]:
    made = LagGauge(own_kafka.bootstrap_servers, FOLD_GROUP)
    yield made
    made.close()


def test_lag_counts_records_and_never_transaction_markers(own_kafka: EmbeddedKafka, gauge: LagGauge) -> None:
    # Each partition has its genesis at 0 and the marker of the transaction that wrote it at 1.
    assert gauge.of_group(USAGE_EVENTS, PARTITIONS).record_count > 0
    commit(own_kafka, [1] * PARTITIONS)
    assert gauge.of_group(USAGE_EVENTS, PARTITIONS) == Lag(0, None)
    commit(own_kafka, [2] * PARTITIONS)
    assert gauge.of_group(USAGE_EVENTS, PARTITIONS) == Lag(0, None)
    before_ms = time.time_ns() // 1_000_000
    produce(own_kafka, 2)
    lag = gauge.of_group(USAGE_EVENTS, PARTITIONS)
    assert lag.record_count == 1
    assert lag.oldest_ms is not None
    assert abs(lag.oldest_ms - before_ms) < 10_000
    produce(own_kafka, 3)
    second = gauge.of_group(USAGE_EVENTS, PARTITIONS)
    assert second == Lag(2, lag.oldest_ms)
    commit(own_kafka, [2, 2, 3, 2])
    third = gauge.of_group(USAGE_EVENTS, PARTITIONS)
    assert third.record_count == 1
    assert third.oldest_ms is not None
    assert third.oldest_ms >= lag.oldest_ms
    commit(own_kafka, [2, 2, 3, 3])
    assert gauge.of_group(USAGE_EVENTS, PARTITIONS) == Lag(0, None)


def test_a_broker_that_is_away_is_said() -> None:
    [port] = ports.pick(1)
    gauge = LagGauge(f"127.0.0.1:{port}", FOLD_GROUP)
    with pytest.raises(LogUnreachable):
        gauge.of_group(USAGE_EVENTS, PARTITIONS)
    gauge.close()


@pytest.fixture
def node(
    tmp_path: Path, own_kafka: EmbeddedKafka, clickhouse_settings: dict[str, str]
) -> Iterator[tuple[ApiProcess, dict[str, str]]]:
    """An API whose bounds are tight, over a database that the sink has just made."""
    settings = {**clickhouse_settings, "clickhouse_database": f"health_{own_kafka.pid}"}
    make_tables(settings)
    bounds: dict[str, Any] = {"lag_age_s_max": 1.0}
    with ApiProcess(tmp_path, bootstrap_servers=own_kafka.bootstrap_servers, **settings, **bounds) as api:
        yield api.wait_for_keys(), settings


def health_of(api: ApiProcess) -> tuple[int, dict[str, Any]]:
    answer = httpx.get(f"{api.url}/v1/health")
    body = answer.json()
    assert set(body) == set(Health.__struct_fields__)
    return answer.status_code, body


def store_positions(settings: dict[str, str], topic: str, next_offset: int) -> None:
    fields = ("source_offset", "log_ms", "rewind_next_offset", "rewind_source_offset", "rewind_log_ms")
    rows = [
        {"topic": topic, "partition": partition, "next_offset": next_offset, **dict.fromkeys(fields, 0)}
        for partition in range(PARTITIONS)
    ]
    insert(settings, "sink_positions", rows)


def test_health_follows_fold_sink_and_broker(node: tuple[ApiProcess, dict[str, str]], own_kafka: EmbeddedKafka) -> None:
    api, settings = node
    commit(own_kafka, [2, 2, 3, 3])
    wait_until(lambda: health_of(api)[0] == 200, "green while nothing waits")
    assert health_of(api)[1]["fold"] == {"lag_records": 0, "oldest_age_s": 0.0}

    produce(own_kafka, 0)
    wait_until(lambda: health_of(api)[0] == 503, "red a second after an event that is not counted")
    body = health_of(api)[1]
    assert body["fold"]["lag_records"] == 1
    assert "the fold has not taken in a record" in body["reasons"][0]
    commit(own_kafka, [3, 2, 3, 3])
    wait_until(lambda: health_of(api)[0] == 200, "green again when it is counted")

    produce(own_kafka, 1, LEDGER)
    wait_until(lambda: health_of(api)[0] == 503, "red when the sink stands still")
    assert "the ClickHouse sink has not" in health_of(api)[1]["reasons"][0]
    store_positions(settings, LEDGER, 1)
    store_positions(settings, USAGE_TOTALS, 1)
    wait_until(lambda: health_of(api)[0] == 200, "green again when it has written")

    own_kafka.kill()
    wait_until(lambda: health_of(api)[0] == 503, "red without a broker", 60)
    wait_until(lambda: not health_of(api)[1]["kafka_reachable"], "it says which part is away", 60)
    own_kafka.restart()
    wait_until(lambda: health_of(api)[0] == 200, "green when the broker is back", 60)
    assert "Traceback" not in api.log


def test_health_needs_no_key_and_is_never_stored(api: ApiProcess) -> None:
    answer = httpx.get(f"{api.url}/v1/health")
    assert answer.status_code in (200, 503)
    assert answer.headers["cache-control"] == "no-store"

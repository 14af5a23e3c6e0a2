"""Health: red as soon as what is accepted is not counted any more."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from api.health import Behind, Bounds, Health, Measured, behind, judge, to_health
from api.lag import Lag, LagGauge, LogUnreachable, Unread, _Look
from observe.health import HealthBoard
from observe.waiting import Waiting
from runtime.embedded import ports
from runtime.embedded.kafka import EmbeddedKafka
from runtime.logs import range_of
from runtime.topics import create_topics
from schemas.topics import FOLD_GROUP, LEDGER, USAGE_EVENTS, USAGE_TOTALS
from tests.api.process import PARTITIONS, ApiProcess
from tests.api.tables import insert, make_tables
from tests.waiting import wait_until

BOUNDS = Bounds(fold_age_s_max=60.0, fold_lag_max=100, sink_age_s_max=60.0, stale_ms_max=15_000)
NOW_MS = 1_795_267_200_000
YEAR_MS = 365 * 86_400_000
NOTHING = Behind(0, 0.0, None)
GOOD = Measured(NOW_MS, True, 0.0, NOTHING, (), None, NOTHING, None)


def unread(append_ms: int | None = NOW_MS) -> Unread:
    return Unread((USAGE_EVENTS, 3), 4_711, append_ms)


def health_by(measured: Measured | None, later_ms: int = 0) -> Health:
    board = HealthBoard()
    for check in judge(measured, BOUNDS, NOW_MS + later_ms):
        board.report(*check)
    return to_health(measured, board.last())


@pytest.mark.parametrize(
    ("measured", "later_ms", "reason"),
    [
        pytest.param(None, 0, "nothing is measured", id="before the first measurement"),
        pytest.param(GOOD, 15_001, "15 s old", id="when measuring hangs"),
        pytest.param(GOOD._replace(keys_loaded=False), 0, "keys", id="before the keys are read"),
        pytest.param(GOOD._replace(fold=None, sink=None, kafka_error="down"), 0, "Kafka: down", id="without Kafka"),
        pytest.param(GOOD._replace(refused="too few"), 0, "acknowledge", id="when Kafka acknowledges nothing"),
        pytest.param(
            GOOD._replace(fold=Behind(1, 60.1, unread())),
            0,
            "offset 4711 of partition 3 for 60 s",
            id="when one event waits for more than a minute",
        ),
        pytest.param(
            GOOD._replace(fold=Behind(1, 60.1, unread(NOW_MS + YEAR_MS))),
            0,
            "31536000 s ahead of this node's clock",
            id="when the broker's clock is a year ahead",
        ),
        pytest.param(
            GOOD._replace(fold=Behind(1, 60.1, unread(None))), 0, "left open", id="behind an open transaction"
        ),
        pytest.param(
            GOOD._replace(fold=Behind(101, 0.1, unread())), 0, "101 records behind", id="when too many events wait"
        ),
        pytest.param(
            GOOD._replace(stands=("partition 3 is parked at 17: meterlog quarantine",)),
            0,
            "partition 3 is parked at 17: meterlog quarantine",
            id="when a partition is parked, at once",
        ),
    ],
)
def test_health_is_red(measured: Measured | None, later_ms: int, reason: str) -> None:
    health = health_by(measured, later_ms)
    assert health.status == "red"
    assert len(health.reasons) == 1
    assert reason in health.reasons[0]
    [red] = [check for check in health.checks if check.state == "red"]
    assert red.do, "it says what to do"


@pytest.mark.parametrize(
    ("measured", "name"),
    [
        pytest.param(GOOD._replace(sink=None, clickhouse_error="down"), "clickhouse", id="without ClickHouse"),
        pytest.param(GOOD._replace(sink=Behind(1, 60.1, unread())), "clickhouse_sink", id="when the sink stands still"),
        pytest.param(GOOD._replace(keys_age_s=31.0), "api_keys", id="when the keys' changes are not known"),
    ],
)
def test_health_is_yellow(measured: Measured, name: str) -> None:
    health = health_by(measured)
    assert health.status == "yellow"
    assert [(check.name, check.state) for check in health.checks if check.state != "green"] == [(name, "yellow")]


@pytest.mark.parametrize(
    "measured",
    [
        pytest.param(GOOD, id="when nothing waits"),
        pytest.param(
            GOOD._replace(fold=Behind(100, 60.0, unread()), sink=Behind(100, 60.0, unread())), id="at the bounds"
        ),
        pytest.param(
            GOOD._replace(fold=Behind(1, 0.5, unread(NOW_MS - YEAR_MS))),
            id="when the broker's clock is a year behind, and records are counted",
        ),
    ],
)
def test_health_is_green(measured: Measured) -> None:
    health = health_by(measured, 15_000)
    assert (health.status, health.reasons) == ("green", ())


def test_every_reason_is_given() -> None:
    late = Behind(101, 61.0, unread())
    measured = Measured(NOW_MS, False, 0.0, late, ("partition 1 stands",), None, None, "down")
    assert len(health_by(measured).reasons) == 4


def ages(append_ms: int, seconds: int, behind_of: Callable[..., Behind]) -> list[float]:
    """The age that is reckoned, second by second, of one record that nobody counts, logged after the watch began."""
    waiting, found = Waiting(), []
    for second in range(seconds):
        lag = Lag(0, (), {(USAGE_EVENTS, 3): 4_711}, {})
        if second:
            lag = Lag(1, (unread(append_ms),), {(USAGE_EVENTS, 3): 4_712}, {})
        found.append(behind_of(lag, waiting, 50.0 + second, NOW_MS + second * 1_000).age_s)
    return found


def by_append_time(lag: Lag, _waiting: Waiting, _now_s: float, now_ms: int) -> Behind:
    """Planted: as it was, by the broker's clock alone."""
    times = [found.append_ms for found in lag.unread if found.append_ms is not None]
    return Behind(lag.record_count, max(0, now_ms - min(times)) / 1_000 if times else 0.0, None)


@pytest.mark.parametrize("off_ms", [0, YEAR_MS, -YEAR_MS, 3_600_000], ids=["right", "ahead", "behind", "an hour ahead"])
def test_a_record_that_is_not_counted_ages_whatever_the_broker_s_clock_says(off_ms: int) -> None:
    assert ages(NOW_MS + off_ms, 4, behind) == [0.0, 0.0, 1.0, 2.0]


def test_ages_by_append_time_alone_are_found_to_stay_green() -> None:
    assert ages(NOW_MS + YEAR_MS, 100, by_append_time) == [0.0] * 100


def test_what_waited_before_the_node_began_counts_from_its_append_time() -> None:
    lag = Lag(1, (unread(NOW_MS - 90_000),), {(USAGE_EVENTS, 3): 4_712}, {})
    assert behind(lag, Waiting(), 5.0, NOW_MS).age_s == 90.0


@pytest.fixture(scope="module")
def own_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedKafka]:
    """A broker whose group offsets are this module's alone."""
    with EmbeddedKafka(tmp_path_factory.mktemp("health-kafka")) as kafka:
        create_topics(kafka.bootstrap_servers, PARTITIONS, 1, b"k" * 32)
        yield kafka


def commit(kafka: EmbeddedKafka, offsets: list[int], note: str = "") -> None:
    """As the fold's worker does, once for each partition."""
    places = [TopicPartition(USAGE_EVENTS, partition, offset, note) for partition, offset in enumerate(offsets)]
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
    def found() -> tuple[int, list[tuple[int, int]]]:
        lag = gauge.of_group(USAGE_EVENTS, PARTITIONS)
        return lag.record_count, sorted((unread.place[1], unread.offset) for unread in lag.unread)

    assert found()[0] > 0
    commit(own_kafka, [1] * PARTITIONS)
    assert found() == (0, [])
    commit(own_kafka, [2] * PARTITIONS)
    assert found() == (0, [])
    before_ms = time.time_ns() // 1_000_000
    produce(own_kafka, 2)
    lag = gauge.of_group(USAGE_EVENTS, PARTITIONS)
    assert lag.record_count == 1
    [unread] = lag.unread
    assert (unread.place, unread.offset) == ((USAGE_EVENTS, 2), 2)
    assert unread.append_ms is not None
    assert abs(unread.append_ms - before_ms) < 10_000
    assert lag.ends[USAGE_EVENTS, 2] == 3
    produce(own_kafka, 3)
    assert found() == (2, [(2, 2), (3, 2)])
    commit(own_kafka, [2, 2, 3, 2])
    assert found() == (1, [(3, 2)])
    commit(own_kafka, [2, 2, 3, 3])
    assert found() == (0, [])


def test_a_note_beside_the_offset_is_told(own_kafka: EmbeddedKafka, gauge: LagGauge) -> None:
    commit(own_kafka, [2, 2, 3, 3], "is parked")
    assert gauge.of_group(USAGE_EVENTS, PARTITIONS).notes == dict.fromkeys(range(PARTITIONS), "is parked")
    commit(own_kafka, [2, 2, 3, 3])
    assert gauge.of_group(USAGE_EVENTS, PARTITIONS).notes == {}


def test_what_an_open_transaction_hides_is_behind_all_the_same(own_kafka: EmbeddedKafka, gauge: LagGauge) -> None:
    end = gauge.end_of((LEDGER, 3))
    assert gauge.of_offsets({(LEDGER, 3): end}).unread == ()
    producer = Producer({"bootstrap.servers": own_kafka.bootstrap_servers, "transactional.id": "abandoned"})
    producer.init_transactions(10)
    producer.begin_transaction()
    producer.produce(LEDGER, b"anything", b"o/c", 3)
    assert producer.flush(10) == 0
    assert gauge.of_offsets({(LEDGER, 3): end}).unread == (Unread((LEDGER, 3), end, None),)
    producer.abort_transaction(10)
    wait_until(lambda: gauge.of_offsets({(LEDGER, 3): end}).unread == (), "nothing is hidden")


@pytest.mark.parametrize(
    ("look", "offset", "end", "answers"),
    [
        pytest.param(_Look(5, Unread((LEDGER, 0), 8, 1), 8), 5, 9, True, id="where it looked"),
        pytest.param(_Look(5, Unread((LEDGER, 0), 8, 1), 8), 8, 99, True, id="up to the record"),
        pytest.param(_Look(5, Unread((LEDGER, 0), 8, 1), 8), 9, 99, False, id="not behind it"),
        pytest.param(_Look(5, Unread((LEDGER, 0), 8, 1), 8), 4, 99, False, id="not before"),
        pytest.param(_Look(5, Unread((LEDGER, 0), 8, 1), 8), 5, 6, False, id="not of a topic made anew"),
        pytest.param(_Look(5, None, 8), 6, 8, True, id="nothing, while it does not grow"),
        pytest.param(_Look(5, None, 8), 6, 9, False, id="nothing, until it grows"),
        pytest.param(_Look(5, Unread((LEDGER, 0), 8, None), 8), 5, 9, False, id="never of what a transaction hid"),
    ],
)
def test_what_was_read_once_is_read_again_when_it_may_differ(look: _Look, offset: int, end: int, answers: bool) -> None:
    assert look.answers(offset, end) is answers


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
    bounds: dict[str, Any] = {"fold_age_s_max": 1.0, "sink_age_s_max": 1.0}
    with ApiProcess(tmp_path, bootstrap_servers=own_kafka.bootstrap_servers, **settings, **bounds) as api:
        yield api.wait_for_keys(), settings


def health_of(api: ApiProcess) -> tuple[int, dict[str, Any]]:
    answer = httpx.get(f"{api.url}/v1/health")
    body = answer.json()
    assert set(body) == set(Health.__struct_fields__)
    return answer.status_code, body


def ends_of(kafka: EmbeddedKafka, topic: str = USAGE_EVENTS) -> list[int]:
    """Where the topic's partitions end: whichever tests came before."""
    return [range_of(kafka.bootstrap_servers, topic, number).end for number in range(PARTITIONS)]


def store_positions(settings: dict[str, str], topic: str, next_offsets: list[int]) -> None:
    fields = ("source_offset", "log_ms", "rewind_next_offset", "rewind_source_offset", "rewind_log_ms")
    rows = [
        {"topic": topic, "partition": partition, "next_offset": next_offset, **dict.fromkeys(fields, 0)}
        for partition, next_offset in enumerate(next_offsets)
    ]
    insert(settings, "sink_positions", rows)


def test_health_follows_fold_sink_and_broker(node: tuple[ApiProcess, dict[str, str]], own_kafka: EmbeddedKafka) -> None:
    api, settings = node
    first, *others = ends_of(own_kafka)
    commit(own_kafka, [first, *others])
    wait_until(lambda: health_of(api)[1]["status"] == "green", "green while nothing waits")
    assert health_of(api)[1]["fold"] == {"lag_records": 0, "oldest_age_s": 0.0}

    produce(own_kafka, 0)
    wait_until(lambda: health_of(api)[0] == 503, "red a second after an event that is not counted")
    body = health_of(api)[1]
    assert body["fold"]["lag_records"] == 1
    assert f"the fold has not counted the record at offset {first} of partition 0" in body["reasons"][0]
    commit(own_kafka, [first + 1, *others])
    wait_until(lambda: health_of(api)[0] == 200, "green again when it is counted")

    commit(own_kafka, [first + 1, *others], "is parked at 3: meterlog quarantine")
    wait_until(lambda: health_of(api)[0] == 503, "red when a partition is parked")
    assert health_of(api)[1]["reasons"][0].startswith("partition 0 is parked at 3: meterlog quarantine")
    commit(own_kafka, [first + 1, *others])
    wait_until(lambda: health_of(api)[0] == 200, "green again when it goes on")

    produce(own_kafka, 1, LEDGER)
    wait_until(lambda: health_of(api)[1]["status"] == "yellow", "yellow when the sink stands still")
    assert health_of(api)[0] == 200
    assert "the ClickHouse sink has not" in health_of(api)[1]["reasons"][0]
    store_positions(settings, LEDGER, ends_of(own_kafka, LEDGER))
    store_positions(settings, USAGE_TOTALS, ends_of(own_kafka, USAGE_TOTALS))
    wait_until(lambda: health_of(api)[1]["status"] == "green", "green again when it has written")

    own_kafka.kill()
    wait_until(lambda: health_of(api)[0] == 503, "red without a broker", 60)
    wait_until(lambda: not health_of(api)[1]["kafka_reachable"], "it says which part is away", 60)
    own_kafka.restart()
    wait_until(lambda: health_of(api)[1]["status"] == "green", "green when the broker is back", 60)
    assert "Traceback" not in api.log


def test_health_needs_no_key_and_is_never_stored(api: ApiProcess) -> None:
    answer = httpx.get(f"{api.url}/v1/health")
    assert answer.status_code in (200, 503)
    assert answer.headers["cache-control"] == "no-store"

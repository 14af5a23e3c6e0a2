"""Each error of the drivers means something to the sink; nothing passes unmapped."""

from __future__ import annotations

import inspect

import pytest
from clickhouse_connect.driver import exceptions as driver
from confluent_kafka import KafkaError

from observe.clickhouse_sink import CLICKHOUSE_SINK_EVENTS, ClickHouseSinkEvent
from sinks.clickhouse import errors
from sinks.clickhouse.errors import MustStop, PositionLost, Refused, SinkError, Unavailable, from_clickhouse, from_kafka

DRIVER_ERRORS = [
    kind
    for _, kind in inspect.getmembers(driver, inspect.isclass)
    if issubclass(kind, driver.ClickHouseError) and kind.__module__ == driver.__name__
]


@pytest.mark.parametrize("kind", DRIVER_ERRORS, ids=lambda kind: kind.__name__)
def test_every_class_of_the_driver_is_in_the_table_itself(kind: type[Exception]) -> None:
    assert kind in errors._KIND_BY_CLASS


def test_no_error_of_the_driver_stands_outside_its_tree() -> None:
    others = [
        name
        for name, kind in inspect.getmembers(driver, inspect.isclass)
        if issubclass(kind, Exception) and kind not in DRIVER_ERRORS and kind.__module__ == driver.__name__
    ]
    assert others == ["StreamCompleteException"], "the driver's own signal, which it does not let out"


@pytest.mark.parametrize(
    ("exc", "expected"),
    [
        (driver.OperationalError("connection refused"), Unavailable),
        (driver.DatabaseError("HTTP driver received HTTP status 502"), Unavailable),
        (driver.DatabaseError("too many parts", code=252), Unavailable),
        (driver.DatabaseError("memory limit", code=241), Unavailable),
        (driver.DatabaseError("no such column", code=16), Refused),
        (driver.OperationalError("no such column, said with 503", code=16), Refused),
        (driver.DatabaseError("wrong password", code=516), Refused),
        (driver.DatabaseError("no such table", code=60), Refused),
        (driver.ProgrammingError("the client was closed"), Refused),
    ],
    ids=lambda value: str(value) if isinstance(value, Exception) else value.__name__,
)
def test_what_may_pass_is_tried_again_and_what_cannot_stops(
    exc: driver.ClickHouseError, expected: type[SinkError]
) -> None:
    assert type(from_clickhouse(exc)) is expected


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (KafkaError._TRANSPORT, Unavailable),
        (KafkaError._ALL_BROKERS_DOWN, Unavailable),
        (KafkaError.UNKNOWN_TOPIC_OR_PART, Unavailable),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, Unavailable),
        (KafkaError._AUTO_OFFSET_RESET, PositionLost),
        (KafkaError.OFFSET_OUT_OF_RANGE, PositionLost),
    ],
)
def test_a_place_that_is_gone_stops_and_the_rest_of_kafkas_errors_pass(code: int, expected: type[SinkError]) -> None:
    assert type(from_kafka(KafkaError(code), "ledger/0")) is expected


def test_the_tree_that_is_drawn_is_the_tree_that_is() -> None:
    drawn = [line.strip("│├└─ ").split()[0] for line in (errors.__doc__ or "").splitlines() if "──" in line]
    kinds = [kind for kind in SinkError.__subclasses__() + MustStop.__subclasses__()]
    assert sorted(drawn) == sorted(kind.__name__ for kind in kinds)


def test_every_log_event_has_its_meaning() -> None:
    assert set(CLICKHOUSE_SINK_EVENTS) == set(ClickHouseSinkEvent.__args__)  # type: ignore[attr-defined]

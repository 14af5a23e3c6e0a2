"""What becomes of a record that the log does not take, over a producer in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import pytest
from confluent_kafka import KafkaError

from sinks.forward import kafka
from sinks.forward.kafka import KafkaLog
from sinks.forward.port import Acknowledged, Record
from sinks.forward.settings import ForwarderSettings

_TAKEN_BYTES_MAX = 1 << 20


class SmallLog:
    """A producer whose topic takes a megabyte."""

    def __init__(self, _: dict[str, Any]) -> None:
        self.taken: list[tuple[bytes, bytes, list[Any]]] = []
        self._waiting: list[Callable[[], None]] = []

    def produce(
        self, _: str, value: bytes, key: bytes, *, partition: int, headers: list[Any], on_delivery: Callable[..., None]
    ) -> None:
        size_bytes = len(key) + len(value) + sum(len(name) + len(data) for name, data in headers)
        message = Mock(**{"offset.return_value": partition, "value.return_value": value})
        if size_bytes > _TAKEN_BYTES_MAX:
            error = KafkaError(KafkaError.MSG_SIZE_TOO_LARGE)
            self._waiting.append(lambda: on_delivery(error, message))
            return
        self.taken.append((key, value, headers))
        self._waiting.append(lambda: on_delivery(None, message))

    def poll(self, _: float) -> None:
        waiting, self._waiting = self._waiting, []
        for deliver in waiting:
            deliver()


@pytest.mark.parametrize(
    ("record", "taken"),
    [
        pytest.param(
            Record(0, 7, b"acme/ann", b"v", (("trace", b"h" * (2 << 20)),)), (b"acme/ann", b"v", []), id="its headers"
        ),
        pytest.param(Record(0, 7, b"k" * (2 << 20), b"v"), (b"k" * (64 << 10), b"v", []), id="its key"),
        pytest.param(Record(0, 7, b"acme/ann", b"v" * (2 << 20)), (b"acme/ann", b"v" * (64 << 10), []), id="its value"),
    ],
)
def test_a_record_that_the_log_does_not_take_stops_no_lane(
    monkeypatch: pytest.MonkeyPatch, record: Record, taken: tuple[bytes, bytes, list[Any]]
) -> None:
    """Broken would end the process, and the next one would come to the same record."""
    monkeypatch.setattr(kafka, "Producer", SmallLog)
    log = KafkaLog(ForwarderSettings("nowhere"))
    log.append(record)
    assert log.acknowledged() == []
    assert log.acknowledged() == [Acknowledged(0, 7, 0)]
    assert log._producer.taken == [taken]

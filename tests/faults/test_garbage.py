"""Whatever is put on the topic, by whom and however broken: each record gets its reason, and the good ones count."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from tests.faults.fold import Fold, fold
from tests.faults.load import KafkaDoor
from tests.faults.naive import Model
from tests.faults.raw import produce_raw
from tests.faults.wire import BROKEN, FORGED, ODD_HEADERS, Record, record_of

pytestmark = [pytest.mark.broker, pytest.mark.faults]

PARTITIONS = range(4)


@dataclass
class Deployment:
    """A fold that all tests of this module share, and everything that was ever sent to it."""

    fold: Fold
    model: Model

    def assert_exact(self, door: KafkaDoor) -> None:
        """Wait for the fold; then every record is accounted for, for the reason that it should."""
        door.finish()
        self.model += door.model
        self.fold.wait_folded()
        assert self.fold.differences(self.model) == []


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with fold(tmp_path_factory.mktemp("garbage")) as made:
        made.start()
        yield Deployment(made, Model())


MakeDoor = Callable[..., KafkaDoor]


@pytest.fixture
def make_door(deployment: Deployment, request: pytest.FixtureRequest) -> MakeDoor:
    """A producer with settings of its own; its events are those of the test's name."""

    def make(**settings: str) -> KafkaDoor:
        now_us = time.time_ns() // 1_000
        return KafkaDoor(deployment.fold.bootstrap_servers, request.node.name, now_us, rate=1_000, **settings)

    return make


def test_every_kind_of_broken_record_among_good_ones_gets_its_reason(
    deployment: Deployment, make_door: MakeDoor
) -> None:
    door = make_door()
    for kind in BROKEN:
        door.send_some(3)
        door.send_broken(kind)
    deployment.assert_exact(door)


@pytest.mark.parametrize("kind", ODD_HEADERS)
def test_headers_of_any_kind_decide_nothing_and_stop_nobody(
    deployment: Deployment, make_door: MakeDoor, kind: str
) -> None:
    door = make_door()
    door.send_some(10)
    event = door.events.next()
    door.model.send(event)
    produce_raw(deployment.fold.bootstrap_servers, [record_of(event)._replace(headers=ODD_HEADERS[kind])])
    door.send_some(10)
    deployment.assert_exact(door)


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_a_producer_may_compress_as_it_likes(deployment: Deployment, make_door: MakeDoor, codec: str) -> None:
    door = make_door(**{"compression.codec": codec})
    door.send_some(200)
    deployment.assert_exact(door)


@pytest.mark.parametrize("part", ["key", "value"])
def test_a_record_that_is_small_packed_and_large_unpacked_stops_nobody(
    deployment: Deployment, make_door: MakeDoor, part: str
) -> None:
    door = make_door(**{"compression.codec": "gzip", "message.max.bytes": "10000000"})
    bomb = b"\0" * 5_000_000
    door.produce(Record(bomb, b"garbage") if part == "key" else Record(b"acme/ann", bomb), partition=0)
    door.model.send_broken("unreadable")
    door.send_some(10)
    deployment.assert_exact(door)


def test_an_event_on_every_partition_counts_where_it_belongs(deployment: Deployment, make_door: MakeDoor) -> None:
    door = make_door()
    event = door.events.next()
    door.model.send(event)
    for partition in PARTITIONS:
        door.produce(record_of(event), partition)
    for _ in PARTITIONS[1:]:
        door.model.send_broken("misrouted", bears_known_id=True)
    deployment.assert_exact(door)


def test_an_id_used_again_with_other_content_is_a_conflict_and_not_a_duplicate(
    deployment: Deployment, make_door: MakeDoor
) -> None:
    door = make_door()
    door.send_some(20)
    event = door.events.again()
    door.send(event)
    door.send_conflict(event)
    door.send(event)
    deployment.assert_exact(door)


def test_nobody_becomes_an_operator_by_sending_records(deployment: Deployment, make_door: MakeDoor) -> None:
    door = make_door()
    for value in FORGED.values():
        door.send_some(5)
        door.produce(Record(b"acme/ann", value))
    door.model.commands = 1
    door.send_some(5)
    deployment.assert_exact(door)

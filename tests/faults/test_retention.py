"""What retention takes from the log was folded, and is missed by nobody."""

from __future__ import annotations

from pathlib import Path

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from runtime.logs import Range, range_of
from schemas.topics import USAGE_EVENTS
from tests.faults.fold import Fold, fold
from tests.waiting import wait_until

pytestmark = [pytest.mark.broker, pytest.mark.faults]

PARTITIONS = range(4)
_OF_A_GENESIS = 2
"""Its record, and its transaction's marker."""


def ranges(made: Fold) -> list[Range]:
    return [range_of(made.bootstrap_servers, USAGE_EVENTS, partition) for partition in PARTITIONS]


def take_all(made: Fold) -> None:
    """As the broker does it once the newest record is old enough."""
    admin = AdminClient({"bootstrap.servers": made.bootstrap_servers, "log_level": 0})
    ends = [TopicPartition(USAGE_EVENTS, partition, -1) for partition in PARTITIONS]
    for future in admin.delete_records(ends).values():
        future.result(30)


def test_a_partition_on_which_nothing_ever_happened_outlives_its_genesis(tmp_path: Path) -> None:
    with fold(tmp_path) as made:
        made.start()
        wait_until(lambda: all(held.end > _OF_A_GENESIS for held in ranges(made)), "a tick behind each marker")
        made.wait_folded()
        made.stop()
        settled = ranges(made)
        take_all(made)
        assert all(held.start == held.end for held in ranges(made))
        made.start()
        wait_until(
            lambda: made.log().count("partitions.owned") == 2 or not made.is_alive, "the partitions are taken again"
        )
        assert made.is_alive, made.log()
        made.stop()
        assert [held.end for held in ranges(made)] == [held.end for held in settled], "one tick was enough"

"""Where a fold goes on, and what it refuses to go on from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from streams.edges import LogRange
from streams.errors import PositionUnfit
from streams.port import Answer, Epoch, LastRecord, Record
from streams.positions import Witnesses, record_digest, start_offset
from tests.streams.test_partition import OnLog

LOG = LogRange(10, 50)
LAST = LastRecord(29, b"digest of the last one")


class At:
    """A fold that stands somewhere."""

    stop = None

    def __init__(self, next_offset: int | None, last: LastRecord | None) -> None:
        self.next_offset = next_offset
        self.last = last

    def fold(self, records: Sequence[Record], now_ms: int) -> Sequence[Answer]:
        raise NotImplementedError

    def take(self) -> Epoch:
        raise NotImplementedError

    def begin_anew(self, first: Record) -> bool:
        return False

    def hear(self, record: Record) -> bool:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("position", "witnesses", "start"),
    [
        pytest.param(None, Witnesses(LOG, False, None), 10, id="a new partition begins at the log's start"),
        pytest.param(None, Witnesses(LogRange(0, 0), False, None), 0, id="an empty log begins at 0"),
        pytest.param(30, Witnesses(LOG, True, 30), 30, id="the position row decides"),
        pytest.param(30, Witnesses(LOG, True, 20), 30, id="a group behind the row is passed over"),
        pytest.param(30, Witnesses(LOG, False, None), 30, id="a row needs neither facts nor a group"),
        pytest.param(10, Witnesses(LOG, True, 10), 10, id="the log may begin where the fold ended"),
        pytest.param(50, Witnesses(LOG, True, 50), 50, id="nothing new"),
    ],
)
def test_start(position: int | None, witnesses: Witnesses, start: int) -> None:
    assert start_offset(3, At(position, None), witnesses) == start


@pytest.mark.parametrize(
    ("position", "witnesses", "says"),
    [
        pytest.param(None, Witnesses(LOG, True, None), "no position row", id="facts without a row"),
        pytest.param(None, Witnesses(LOG, False, 11), "rows are lost", id="a group's offset without a row"),
        pytest.param(30, Witnesses(LOG, True, 31), "rows are lost", id="a group ahead of the row"),
        pytest.param(51, Witnesses(LOG, True, 30), "beyond the log's end 50", id="a log that was cut"),
        pytest.param(
            9, Witnesses(LOG, True, 9), "before the log's start 10", id="records gone before they were folded"
        ),
    ],
)
def test_refused(position: int | None, witnesses: Witnesses, says: str) -> None:
    with pytest.raises(PositionUnfit, match=f"partition 3: .*{says}"):
        start_offset(3, At(position, None), witnesses)


@pytest.mark.parametrize(
    ("log", "found"),
    [
        pytest.param(LOG, LAST, id="it is still there"),
        pytest.param(LogRange(30, 50), None, id="retention has taken it"),
    ],
)
def test_the_record_folded_last_is_still_that_one(log: LogRange, found: LastRecord | None) -> None:
    assert start_offset(3, At(30, LAST), Witnesses(log, True, 30, found)) == 30


def test_a_log_that_was_made_anew_is_folded_from_its_start() -> None:
    assert start_offset(3, At(10, LAST), Witnesses(LogRange(10, 12), True, None, None, is_anew=True)) == 10
    with pytest.raises(PositionUnfit, match="rows are lost"):
        start_offset(3, At(10, LAST), Witnesses(LogRange(10, 12), True, 11, None, is_anew=True))


@pytest.mark.parametrize(
    "found", [LastRecord(29, b"another"), None], ids=["another record lies there", "no record lies there"]
)
def test_a_log_that_was_cut_and_grew_again_is_refused(found: LastRecord | None) -> None:
    with pytest.raises(PositionUnfit, match="partition 3: the record at 29 is not the one that was folded last"):
        start_offset(3, At(30, LAST), Witnesses(LOG, True, 30, found))


@pytest.mark.parametrize(
    "other",
    [{"key": b"x"}, {"key": None}, {"value": b"x"}, {"value": None}, {"timestamp": 2}, {"headers": (("h", b"x"),)}],
    ids=str,
)
def test_all_of_a_record_is_in_its_digest(other: dict[str, object]) -> None:
    record = OnLog(1, b"key", b"value", (("h", b"v"),), 1)
    assert record_digest(record) == record_digest(replace(record, offset=2))
    assert record_digest(record) != record_digest(replace(record, **other))  # type: ignore[arg-type]

"""Where a fold goes on, and what it refuses to go on from."""

from __future__ import annotations

import pytest

from streams.errors import PositionUnfit
from streams.positions import LogRange, Witnesses, start_offset

LOG = LogRange(10, 50)


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
    assert start_offset(3, position, witnesses) == start


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
        start_offset(3, position, witnesses)

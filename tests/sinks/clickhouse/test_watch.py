"""What the sink says of itself: how far it is, and whether it stands."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from observe import health
from observe.figures import FIGURES
from observe.health import CheckName, CheckState, HealthBoard
from observe.metrics import CLICKHOUSE_LAG, CLICKHOUSE_POSITION, CLICKHOUSE_RETRIES, CLICKHOUSE_WAITING_S
from sinks.clickhouse import watch
from sinks.clickhouse.position import Place, Position, TopicPartition
from sinks.clickhouse.watch import SinkWatch, answers, does_not_answer

LEDGER_3 = TopicPartition("ledger", 3)


@pytest.fixture(autouse=True)
def board(monkeypatch: pytest.MonkeyPatch) -> Iterator[HealthBoard]:
    made = HealthBoard()
    monkeypatch.setattr(watch, "HEALTH", made)
    yield made
    assert health.HEALTH is not made


def at(offset: int) -> Position:
    place = Place(offset, -1, 0)
    return Position(place, place)


def state_of(board: HealthBoard, name: CheckName) -> CheckState:
    return next(check.state for check in board.last() if check.name is name)


def test_a_record_that_is_not_stored_past_the_bound_is_red(board: HealthBoard) -> None:
    shown = SinkWatch(age_s_max=60.0)
    shown.show({LEDGER_3: at(10)}, {LEDGER_3: 10}, 100.0)
    shown.show({LEDGER_3: at(10)}, {LEDGER_3: 15}, 101.0)
    shown.show({LEDGER_3: at(10)}, {LEDGER_3: 99}, 161.0)
    assert state_of(board, CheckName.CLICKHOUSE_SINK) is CheckState.GREEN
    assert FIGURES.numbers(CLICKHOUSE_WAITING_S) == {(): 60.0}
    assert FIGURES.numbers(CLICKHOUSE_LAG) == {("ledger", "3"): 89}
    assert FIGURES.numbers(CLICKHOUSE_POSITION) == {("ledger", "3"): 10}
    shown.show({LEDGER_3: at(10)}, {LEDGER_3: 99}, 162.0)
    assert state_of(board, CheckName.CLICKHOUSE_SINK) is CheckState.RED
    shown.show({LEDGER_3: at(99)}, {LEDGER_3: 99}, 163.0)
    assert state_of(board, CheckName.CLICKHOUSE_SINK) is CheckState.GREEN


def test_an_end_that_is_not_known_yet_is_no_lag(board: HealthBoard) -> None:
    SinkWatch(60.0).show({LEDGER_3: at(10)}, {}, 100.0)
    assert FIGURES.numbers(CLICKHOUSE_LAG) == {}
    assert state_of(board, CheckName.CLICKHOUSE_SINK) is CheckState.GREEN


@pytest.mark.parametrize(("server", "name"), [("clickhouse", CheckName.CLICKHOUSE), ("kafka", CheckName.KAFKA)])
def test_a_server_that_is_away_is_red_and_counted(board: HealthBoard, server: str, name: CheckName) -> None:
    before = FIGURES.numbers(CLICKHOUSE_RETRIES).get((server,), 0)
    does_not_answer(server, "insert into usage_events: refused")
    assert state_of(board, name) is CheckState.RED
    assert FIGURES.numbers(CLICKHOUSE_RETRIES)[(server,)] == before + 1
    answers(server)
    assert state_of(board, name) is CheckState.GREEN

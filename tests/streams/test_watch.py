"""A worker's own checks: what they say of an engine that stands, hangs behind, or is fine."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from observe.figures import FIGURES
from observe.health import Check, CheckName, CheckState, HealthBoard
from observe.metrics import WORKER_APPEND_AGE_S, WORKER_LAG, WORKER_STANDING, WORKER_WAITING_S
from streams.engine import Engine, Place, Snapshot
from streams.port import Stop, StopKind
from streams.watch import WatchBounds, WorkerWatch, table_bytes

BOUNDS = WatchBounds(age_s_max=15.0, take_over_s_max=60.0)


class StillEngine:
    """What the watch looks at."""

    def __init__(self) -> None:
        self.owned: dict[int, Place] = {}
        self.stops: dict[int, Stop] = {}
        self.partitions: dict[int, Any] = {}
        self.taking_since_s: float | None = None

    def places(self) -> dict[int, Place]:
        return self.owned

    def snapshot(self) -> Snapshot:
        return Snapshot(0, 0, 0.0, tuple(self.owned), 0, self.stops)


class World:
    def __init__(self) -> None:
        self.now_s = 100.0
        self.engine = StillEngine()
        self.board = HealthBoard(lambda: self.now_s)
        engine = cast("Engine", self.engine)
        self._watch = WorkerWatch(engine, BOUNDS, lambda: 0, lambda: self.now_s, self.board)

    def after(self, seconds: float) -> dict[CheckName, Check]:
        """The checks, looked at once a second meanwhile."""
        until_s = self.now_s + seconds
        while True:
            self._watch.show()
            if self.now_s >= until_s:
                return {check.name: check for check in self.board.checks(30.0)}
            self.now_s += 1


@pytest.fixture
def world() -> World:
    return World()


def test_a_worker_that_counts_is_green_however_far_behind_it_is(world: World) -> None:
    for second in range(60):
        world.engine.owned = {3: Place(1_000 * second, 1_000 * (second + 10))}
        checks = world.after(1)
    assert {check.state for check in checks.values()} == {CheckState.GREEN}
    assert FIGURES.numbers(WORKER_LAG) == {("3",): 10_000}


def test_a_record_that_waits_past_the_bound_is_red_and_green_when_it_is_counted(world: World) -> None:
    world.engine.owned = {3: Place(7, 7), 4: Place(9, 9)}
    world.after(1)
    world.engine.owned = {3: Place(7, 8), 4: Place(9, 9)}
    assert world.after(15)[CheckName.FOLD_PROGRESS].state is CheckState.GREEN
    check = world.after(1)[CheckName.FOLD_PROGRESS]
    assert check.state is CheckState.RED
    assert "offset 7 of partition 3" in check.message
    assert check.do
    assert FIGURES.numbers(WORKER_WAITING_S) == {("3",): 16, ("4",): 0}
    world.engine.owned = {3: Place(8, 8), 4: Place(9, 9)}
    assert world.after(0)[CheckName.FOLD_PROGRESS].state is CheckState.GREEN


@pytest.mark.parametrize("kind", StopKind)
def test_a_partition_that_stands_is_red_at_once_with_its_order(world: World, kind: StopKind) -> None:
    world.engine.owned = {3: Place(7, 8)}
    world.engine.stops = {3: Stop(7, kind, "go on with: meterlog quarantine")}
    check = world.after(0)[CheckName.FOLD_STANDS]
    assert check.state is CheckState.RED
    assert check.message == f"partition 3 stands at offset 7 ({kind}): go on with: meterlog quarantine"
    assert FIGURES.numbers(WORKER_STANDING) == {(each,): float(each is kind) for each in StopKind}
    world.engine.stops = {}
    assert world.after(0)[CheckName.FOLD_STANDS].state is CheckState.GREEN


def test_the_age_by_append_time_is_shown_beside_and_judges_nothing(world: World) -> None:
    world.engine.owned = {3: Place(7, 8, oldest_append_ms=-90_000), 4: Place(9, 9)}
    assert world.after(0)[CheckName.FOLD_PROGRESS].state is CheckState.GREEN
    assert FIGURES.numbers(WORKER_APPEND_AGE_S) == {("3",): 90.0, ("4",): 0.0}


def test_a_partition_that_was_given_away_is_waited_for_elsewhere(world: World) -> None:
    world.engine.owned = {3: Place(7, 8)}
    assert world.after(20)[CheckName.FOLD_PROGRESS].state is CheckState.RED
    world.engine.owned = {}
    assert world.after(0)[CheckName.FOLD_PROGRESS].state is CheckState.GREEN
    assert FIGURES.numbers(WORKER_WAITING_S) == {}


def test_a_take_over_is_yellow_and_red_when_it_lasts(world: World) -> None:
    world.engine.taking_since_s = world.now_s
    assert world.after(60)[CheckName.TAKE_OVER].state is CheckState.YELLOW
    assert world.after(1)[CheckName.TAKE_OVER].state is CheckState.RED
    world.engine.taking_since_s = None
    assert world.after(0)[CheckName.TAKE_OVER].state is CheckState.GREEN


def test_the_tables_sizes_are_their_files(tmp_path: Path) -> None:
    for name, size in (("accounts-0", 3), ("accounts-11", 4), ("seen-0", 5), ("other-0", 6)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "000001.sst").write_bytes(b"x" * size)
    assert table_bytes(tmp_path) == {"accounts": 7, "seen": 5}

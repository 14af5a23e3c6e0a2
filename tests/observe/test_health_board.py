"""The board of a process's checks."""

from observe.health import Check, CheckName, CheckState, HealthBoard, worst_of


class Clock:
    now_s = 1_000.0

    def board(self) -> HealthBoard:
        return HealthBoard(lambda: self.now_s, lambda: int(self.now_s * 1_000))


def test_since_is_when_the_state_began_whatever_the_message() -> None:
    clock = Clock()
    board = clock.board()
    board.report(CheckName.KAFKA)
    clock.now_s = 1_001
    board.report(CheckName.KAFKA, CheckState.RED, "away", "start it")
    clock.now_s = 1_009
    board.report(CheckName.KAFKA, CheckState.RED, "still away", "start it")
    assert board.last() == (Check(CheckName.KAFKA, CheckState.RED, 1_001_000, "still away", "start it"),)
    assert worst_of(board.last()) is CheckState.RED


def test_a_change_is_told_once() -> None:
    told: list[CheckState] = []
    board = Clock().board()
    board.on_change = lambda check: told.append(check.state)
    for state in (CheckState.GREEN, CheckState.GREEN, CheckState.RED, CheckState.RED, CheckState.GREEN):
        board.report(CheckName.KAFKA, state)
    assert told == [CheckState.RED, CheckState.GREEN]


def test_a_main_loop_that_hangs_is_red_and_one_that_never_began_is_not() -> None:
    clock = Clock()
    board = clock.board()
    clock.now_s += 100
    assert worst_of(board.checks(30)) is CheckState.GREEN
    board.turned()
    clock.now_s += 30
    assert worst_of(board.checks(30)) is CheckState.GREEN
    clock.now_s += 1
    [check] = board.checks(30)
    assert (check.name, check.state) == (CheckName.MAIN_LOOP, CheckState.RED)
    board.turned()
    assert worst_of(board.checks(30)) is CheckState.GREEN


def test_a_check_that_grows_stale_by_itself_is_asked_for() -> None:
    board = Clock().board()
    board.refresh.append(lambda: board.report(CheckName.MEASURED, CheckState.RED, "old"))
    assert worst_of(board.checks(30)) is CheckState.RED

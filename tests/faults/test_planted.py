"""The check of the kill tests finds what it is there for: workers with a fault planted, killed where it hurts."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.faults.books import ledger_differences
from tests.faults.deployment import Deployment
from tests.faults.fold import WORKER, Fold, fold
from tests.faults.load import KafkaDoor
from tests.faults.naive import Model
from tests.waiting import wait_until

pytestmark = [pytest.mark.broker, pytest.mark.faults]


def broken(fault: str) -> Sequence[str]:
    return sys.executable, "-m", "tests.faults.broken_worker", fault


def killed_with(fault: str, running: Fold, heir: Sequence[str] = WORKER) -> Model:
    """A sound worker, one with `fault` that is killed, and an heir, all under load; gives what was sent."""
    door = KafkaDoor(running.bootstrap_servers, fault, time.time_ns() // 1_000, rate=1_000)
    running.start()
    door.send_some(50)
    door.finish()
    running.wait_folded()
    running.stop()
    running.start(broken(fault))

    def is_killed_under_load() -> bool:
        door.send_some(20)
        door.finish()
        return not running.is_alive

    wait_until(is_killed_under_load, "the worker kills itself", 60)
    assert running.wait_exit() == -signal.SIGKILL, running.log()
    running.start(heir)
    door.send_some(50)
    door.finish()
    running.wait_folded()
    return door.model


@pytest.mark.parametrize(
    ("fault", "heir"),
    [
        ("the commit is not awaited", broken("the tables are not compared")),
        ("facts are committed before their position", WORKER),
    ],
    ids=["the commit is not awaited", "facts are committed before their position"],
)
def test_a_worker_with_a_planted_fault_fails_the_check(tmp_path: Path, fault: str, heir: Sequence[str]) -> None:
    with fold(tmp_path) as running:
        model = killed_with(fault, running, heir)
        found = running.differences(model)
    assert any(line.startswith("ledger: counted") for line in found), found


def test_rows_of_an_epoch_that_never_was_are_found_by_the_heir(tmp_path: Path) -> None:
    """Two lines of defence: the fault above, and an heir that compares its tables with their changelogs."""
    with fold(tmp_path) as running:
        model = killed_with("the commit is not awaited", running)
        assert running.differences(model) == []


def test_a_worker_that_nobody_fences_is_found_when_it_wakes_up(tmp_path: Path) -> None:
    """The scenario of the worker that sleeps until it was replaced, with a fold that the broker does not know again."""
    with Deployment(tmp_path, has_stores=False) as there:
        sleeper = there.worker("one").start(odd={"unfenced": True, "sleeps_at_epoch": 8})
        with there.load("unfenced") as load:
            sleeper.wait_asleep()
            there.start("two", odd={"unfenced": True})
            there.wait_progress(200)
            sleeper.resume()
            there.wait_sent(load, 400)
        there.wait_folded()
        found = ledger_differences(there.bootstrap_servers, there.model)
    assert any(line.startswith("ledger: counted") for line in found), found


def test_the_sound_worker_killed_at_the_same_place_passes_it(tmp_path: Path) -> None:
    with fold(tmp_path) as running:
        model = killed_with("none", running)
        assert running.differences(model) == []

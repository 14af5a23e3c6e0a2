"""The check of the kill tests finds what it is there for: workers with a fault planted, killed where it hurts."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

import pytest

from tests.faults.books import ledger_differences
from tests.faults.deployment import Deployment
from tests.faults.fold import Fold, fold
from tests.faults.load import KafkaDoor
from tests.faults.naive import Model
from tests.waiting import wait_until

pytestmark = [pytest.mark.broker, pytest.mark.faults]


def killed_with(fault: str, running: Fold) -> Model:
    """A sound worker, one with `fault` that is killed, and a sound one again, all under load; gives what was sent."""
    door = KafkaDoor(running.bootstrap_servers, fault, time.time_ns() // 1_000, rate=1_000)
    running.start()
    door.send_some(50)
    door.finish()
    running.wait_folded()
    running.stop()
    running.start((sys.executable, "-m", "tests.faults.broken_worker", fault))

    def is_killed_under_load() -> bool:
        door.send_some(20)
        door.finish()
        return not running.is_alive

    wait_until(is_killed_under_load, "the worker kills itself", 60)
    assert running.wait_exit() == -signal.SIGKILL, running.log()
    running.start()
    door.send_some(50)
    door.finish()
    running.wait_folded()
    return door.model


@pytest.mark.parametrize(
    ("fault", "finding"),
    [
        ("the commit is not awaited", "ledger: counted"),
        ("facts are committed before their position", "ledger: counted"),
    ],
)
def test_a_worker_with_a_planted_fault_fails_the_check(tmp_path: Path, fault: str, finding: str) -> None:
    with fold(tmp_path) as running:
        model = killed_with(fault, running)
        found = running.differences(model)
    assert any(line.startswith(finding) for line in found), found


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

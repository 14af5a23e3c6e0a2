"""The supervisor, with tiny Python processes for children."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runtime.supervisor import Backoff, Child, NotReady, State, Status, Supervisor
from tests.runtime.processes import first_line, is_gone, python
from tests.waiting import wait_until

QUICK = Backoff(first_s=0.05, max_s=0.2, reset_after_s=30)
SERVE = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(0)); signal.pause()"
STUBBORN = """
import pathlib, signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path(sys.argv[1]).touch()
while True:
    signal.pause()
"""


@pytest.fixture
def supervisor() -> Iterator[Supervisor]:
    with Supervisor(QUICK) as supervisor:
        yield supervisor


@pytest.fixture
def child(tmp_path: Path) -> Callable[..., Child]:
    def make(name: str, script: str, *arguments: object, **fields: object) -> Child:
        argv = [sys.executable, "-c", script, *map(str, arguments)]
        return Child(name, argv, tmp_path / f"{name}.log", **fields)  # type: ignore[arg-type]

    return make


def of(supervisor: Supervisor, name: str) -> Status:
    return next(status for status in supervisor.status() if status.name == name)


def pid_of(supervisor: Supervisor, name: str) -> int:
    pid = of(supervisor, name).pid
    assert pid is not None
    return pid


def test_a_child_is_ready_when_its_check_says_so(
    supervisor: Supervisor, child: Callable[..., Child], tmp_path: Path
) -> None:
    flag = tmp_path / "flag"
    supervisor.start(child("a", SERVE, is_ready=flag.exists))
    wait_until(lambda: of(supervisor, "a").pid, "it runs")
    assert of(supervisor, "a").state is State.STARTING
    flag.touch()
    supervisor.wait_ready("a")
    assert of(supervisor, "a").state is State.READY


def test_a_killed_child_is_started_again_with_another_pid(supervisor: Supervisor, child: Callable[..., Child]) -> None:
    supervisor.start(child("a", SERVE))
    supervisor.wait_ready("a")
    first = pid_of(supervisor, "a")
    supervisor.kill("a", signal.SIGKILL)
    wait_until(lambda: of(supervisor, "a").restarts == 1, "its death was seen")
    supervisor.wait_ready("a")
    assert pid_of(supervisor, "a") != first
    assert of(supervisor, "a").exit_code == -signal.SIGKILL


def test_a_child_that_keeps_dying_is_reported_to_who_waits_for_it(
    supervisor: Supervisor, child: Callable[..., Child]
) -> None:
    supervisor.start(child("a", "print('no such setting'); raise SystemExit(3)", is_ready=lambda: False))
    with pytest.raises(NotReady, match=r"exit code 3(.|\n)*no such setting"):
        supervisor.wait_ready("a")


def test_a_child_that_never_gets_ready_is_reported(supervisor: Supervisor, child: Callable[..., Child]) -> None:
    supervisor.start(child("a", SERVE, is_ready=lambda: False))
    with pytest.raises(NotReady, match="not ready after"):
        supervisor.wait_ready("a", timeout_s=0.2)


def test_a_check_that_raises_counts_as_no_and_leaves_the_child_kept(child: Callable[..., Child]) -> None:
    def broken() -> bool:
        raise ValueError("planted")

    with Supervisor(QUICK) as supervisor:
        supervisor.start(child("a", SERVE, is_ready=broken))
        with pytest.raises(NotReady):
            supervisor.wait_ready("a", timeout_s=0.2)
        pid = pid_of(supervisor, "a")
    assert is_gone(pid)


def test_the_pause_doubles_up_to_its_maximum() -> None:
    backoff = Backoff(first_s=0.5, max_s=6)
    assert [backoff.pause_s(deaths) for deaths in (1, 2, 3, 4, 5, 1000)] == [0.5, 1, 2, 4, 6, 6]


def test_a_child_that_stayed_up_begins_again_at_the_first_pause(tmp_path: Path, child: Callable[..., Child]) -> None:
    backoff = Backoff(first_s=0.01, max_s=3600, reset_after_s=0)
    with Supervisor(backoff) as supervisor:
        supervisor.start(child("a", "raise SystemExit(1)"))
        wait_until(lambda: of(supervisor, "a").restarts >= 12, "twelve deaths, which would take 40 s when doubling")


def test_children_are_stopped_in_reverse_order(child: Callable[..., Child], tmp_path: Path) -> None:
    note = tmp_path / "order"
    script = """
import signal, sys
def end(*_):
    with open(sys.argv[1], "a") as file:
        file.write(sys.argv[2] + " ")
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
open(sys.argv[1] + sys.argv[2], "w").close()
signal.pause()
"""
    with Supervisor() as supervisor:
        for name in "abc":
            ready = Path(str(note) + name)
            supervisor.start(child(name, script, note, name, is_ready=ready.exists))
            supervisor.wait_ready(name)
    assert note.read_text() == "c b a "
    assert [status.state for status in supervisor.status()] == [State.STOPPED] * 3
    assert [status.exit_code for status in supervisor.status()] == [0] * 3


def test_a_child_that_does_not_end_is_killed_at_the_deadline(child: Callable[..., Child], tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    with Supervisor() as supervisor:
        supervisor.start(child("a", STUBBORN, flag, is_ready=flag.exists, stop_wait_s=0.2))
        supervisor.wait_ready("a")
    assert of(supervisor, "a").exit_code == -signal.SIGKILL


def test_a_child_stopped_by_a_signal_is_still_asked_to_end(child: Callable[..., Child]) -> None:
    with Supervisor() as supervisor:
        supervisor.start(child("a", "import signal; signal.pause()"))
        supervisor.wait_ready("a")
        supervisor.kill("a", signal.SIGSTOP)
    assert of(supervisor, "a").exit_code == -signal.SIGTERM


def test_what_a_dead_child_left_behind_goes_with_it(
    supervisor: Supervisor, child: Callable[..., Child], tmp_path: Path
) -> None:
    note = tmp_path / "grandchild"
    script = """
import subprocess, sys, time
grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open(sys.argv[1] + ".new", "w").write(str(grandchild.pid))
import os; os.rename(sys.argv[1] + ".new", sys.argv[1])
time.sleep(600)
"""
    supervisor.start(child("a", script, note, is_ready=note.exists))
    supervisor.wait_ready("a")
    grandchild = int(note.read_text())
    supervisor.kill("a", signal.SIGKILL)
    wait_until(lambda: is_gone(grandchild), "the grandchild is gone")


def test_a_stop_during_a_pause_does_not_wait_for_its_end(child: Callable[..., Child]) -> None:
    with Supervisor(Backoff(first_s=3600, max_s=3600)) as supervisor:
        supervisor.start(child("a", "raise SystemExit(1)"))
        wait_until(lambda: of(supervisor, "a").state is State.WAITING, "it waits for its restart")
    assert of(supervisor, "a").state is State.STOPPED


def test_a_command_that_cannot_be_started_is_tried_again(supervisor: Supervisor, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    supervisor.start(Child("a", [sys.executable, "-c", SERVE], blocked / "a.log"))
    wait_until(lambda: of(supervisor, "a").restarts >= 1, "the first try failed")
    blocked.unlink()
    supervisor.wait_ready("a")


def test_a_child_that_takes_its_time_to_end_can_be_killed_meanwhile(
    child: Callable[..., Child], tmp_path: Path
) -> None:
    flag = tmp_path / "flag"
    supervisor = Supervisor()
    supervisor.start(child("a", STUBBORN, flag, is_ready=flag.exists, stop_wait_s=3600))
    supervisor.wait_ready("a")
    stopping = threading.Thread(target=supervisor.stop)
    stopping.start()
    supervisor.kill("a")
    stopping.join(30)
    assert of(supervisor, "a").exit_code == -signal.SIGKILL


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children of a killed parent")
def test_a_killed_supervisor_leaves_no_child(tmp_path: Path) -> None:
    script = """
import pathlib, signal, sys
from runtime.supervisor import Child, Supervisor
supervisor = Supervisor()
argv = [sys.executable, "-c", "import time; time.sleep(600)"]
for name in "ab":
    supervisor.start(Child(name, argv, pathlib.Path(sys.argv[1]) / name))
    supervisor.wait_ready(name)
print(*(status.pid for status in supervisor.status()), flush=True)
signal.pause()
"""
    parent = python(script, tmp_path)
    pids = [int(pid) for pid in first_line(parent).split()]
    assert len(pids) == 2
    parent.kill()
    parent.wait()
    wait_until(lambda: all(is_gone(pid) for pid in pids), "both children are gone")


def test_a_log_that_has_grown_large_is_moved_away_at_a_start(
    supervisor: Supervisor, child: Callable[..., Child], tmp_path: Path
) -> None:
    log = tmp_path / "a.log"
    with log.open("wb") as file:
        file.truncate((10 << 20) + 1)
    supervisor.start(child("a", "print('new', flush=True)\n" + SERVE))
    wait_until((tmp_path / "a.log.1").exists, "the old log is moved")
    wait_until(lambda: log.exists() and log.read_text() == "new\n", "the log begins anew")

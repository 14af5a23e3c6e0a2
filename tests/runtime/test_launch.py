"""A child never outlives the process that started it."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path

import pytest

from runtime.launch import Process, spawn
from tests.runtime.processes import first_line, is_gone, python
from tests.waiting import wait_until

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


def test_what_a_child_says_is_appended_to_its_log(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "child.log"
    for _ in range(2):
        assert spawn([sys.executable, "-c", "print('said')"], log_file=log).wait(30) == 0
    assert log.read_text() == "said\nsaid\n"


def test_the_child_is_the_command_itself_in_a_session_of_its_own(tmp_path: Path) -> None:
    log = tmp_path / "child.log"
    script = "import os; print(os.getpid(), os.getsid(0), os.getcwd(), os.environ['WORD'])"
    child = spawn([sys.executable, "-c", script], log_file=log, env={"WORD": "x y"}, cwd=tmp_path)
    child.wait(30)
    assert log.read_text().split(maxsplit=3) == [str(child.pid), str(child.pid), str(tmp_path), "x y\n"]


def test_a_command_that_does_not_exist_ends_with_127_and_says_so(tmp_path: Path) -> None:
    log = tmp_path / "child.log"
    assert spawn(["/no/such/program"], log_file=log).wait(30) == 127
    assert "/no/such/program" in log.read_text()


def test_a_child_lives_on_when_the_thread_that_started_it_ends(tmp_path: Path) -> None:
    children: list[Process] = []
    thread = threading.Thread(target=lambda: children.append(spawn(SLEEP, log_file=tmp_path / "log")))
    thread.start()
    thread.join()
    [child] = children
    echo = spawn([sys.executable, "-c", ""], log_file=tmp_path / "log")  # later than any signal from the thread's end
    assert echo.wait(30) == 0
    assert child.poll() is None
    child.kill()
    child.wait()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children of a killed parent")
def test_a_killed_parent_leaves_no_child(tmp_path: Path) -> None:
    script = """
import sys, pathlib, time
from runtime.launch import spawn
child = spawn([sys.executable, "-c", "import time; time.sleep(600)"], log_file=pathlib.Path(sys.argv[1]))
print(child.pid, flush=True)
time.sleep(600)
"""
    parent = python(script, tmp_path / "log")
    pid = int(first_line(parent))
    assert not is_gone(pid)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    wait_until(lambda: is_gone(pid), "the child is gone")

"""Child processes that never outlive the process that started them, even when that one is killed with SIGKILL.

On Linux the kernel ends the child (PR_SET_PDEATHSIG, set by `_die_with_parent.py`). macOS has no such call: there a
parent killed with SIGKILL leaves its children behind, and the owner of a data directory finds them by its lock.
"""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path

_LAUNCHER = Path(__file__).with_name("_die_with_parent.py")

Process = subprocess.Popen[bytes]
_Job = tuple[Callable[[], Process], "Future[Process]"]


def spawn(
    argv: Sequence[str],
    *,
    log_file: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Process:
    """Start `argv` in a session of its own and return its process; stdout and stderr are appended to `log_file`.

    Its own session: Ctrl-C in a terminal reaches only the parent, which then stops its children in order.
    `env` is the whole environment (None: the parent's). A command that cannot be executed exits 127, the reason in the
    log. Safe to call from any thread. Raises OSError when the log cannot be opened or no process can be made.
    """
    log_file.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-I", "-S", str(_LAUNCHER), str(os.getpid()), "--", *argv]
    return _spawner().run(lambda: _popen(command, log_file, env, cwd))


def _popen(command: list[str], log_file: Path, env: Mapping[str, str] | None, cwd: Path | None) -> Process:
    with log_file.open("ab") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=None if env is None else dict(env),
            cwd=cwd,
            start_new_session=True,
        )


class _Spawner:
    """One thread that lives as long as the process and starts every child.

    The kernel's parent-death signal follows the *thread* that forked: a child started by a thread that ends would be
    killed with it.
    """

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        threading.Thread(target=self._loop, name="spawner", daemon=True).start()

    def run(self, job: Callable[[], Process]) -> Process:
        future: Future[Process] = Future()
        self._jobs.put((job, future))
        return future.result()

    def _loop(self) -> None:
        while True:
            job, future = self._jobs.get()
            try:
                future.set_result(job())
            except BaseException as error:  # noqa: BLE001  the caller's thread raises it; this one must live on
                future.set_exception(error)


_lock = threading.Lock()
_current: _Spawner | None = None


def _spawner() -> _Spawner:
    global _current
    with _lock:
        if _current is None or _current.pid != os.getpid():  # a forked copy has the object, but not its thread
            _current = _Spawner()
        return _current

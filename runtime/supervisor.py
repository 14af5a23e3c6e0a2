"""Keeps child processes running: starts them in order, restarts those that die, and leaves none behind.

It knows nothing of what they do. A child lives in a session of its own and dies with this process, even when this one is killed
(`runtime.launch`).
"""

import logging
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGTERM, Signals

from runtime.errors import StackError
from runtime.launch import Process, spawn

__all__ = ["Child", "Supervisor"]

logger = logging.getLogger(__name__)

_POLL_S = 0.05
_BACKOFF_FIRST_S = 0.2
_BACKOFF_MAX_S = 10.0
_STABLE_S = 30.0
"""A child that stayed up for so long begins again at the first backoff when it dies."""
_STOP_WAIT_S = 20.0
_COMPLAINT_CHARS = 2_000


@dataclass(frozen=True, slots=True)
class Child:
    """What to run, and how to see that it serves."""

    name: str
    command: Sequence[str]
    log_file: Path
    env: Mapping[str, str] | None = None
    """The whole environment; None: this process's."""
    folder: Path | None = None
    is_ready: Callable[[], bool] = lambda: True
    ready_within_s: float = 60.0


@dataclass(slots=True)
class _Running:
    child: Child
    process: Process
    since_s: float
    backoff_s: float = _BACKOFF_FIRST_S
    due_s: float | None = None
    """When to start it again; None: it runs."""


class Supervisor:
    """Owns its children's processes; to be used as a context, whose end stops them all."""

    def __init__(self) -> None:
        self._children: dict[str, _Running] = {}
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="supervisor", daemon=True)
        self._watcher.start()

    def __enter__(self) -> "Supervisor":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, child: Child) -> None:
        """Start a child and wait until it serves. Raises StackError, with the end of its log, when it does not."""
        with self._lock:
            assert child.name not in self._children, f"{child.name} is already supervised"
            self._children[child.name] = _Running(child, _spawn(child), time.monotonic())
        logger.info("child.started", extra={"child": child.name})
        deadline_s = time.monotonic() + child.ready_within_s
        while not child.is_ready():
            if self._ending.is_set():
                return
            if time.monotonic() > deadline_s:
                message = (
                    f"{child.name} does not serve after {child.ready_within_s:.0f} s; its log {child.log_file} ends:\n"
                )
                raise StackError(message + _tail(child.log_file))
            self._ending.wait(_POLL_S)

    def pid(self, name: str) -> int | None:
        """The child's process id; None while it is down."""
        with self._lock:
            running = self._children[name]
            return running.process.pid if running.due_s is None and running.process.poll() is None else None

    def kill(self, name: str, number: Signals = SIGKILL) -> None:
        """Send a signal to one child; one that dies of it is restarted as after any death."""
        with self._lock:
            self._children[name].process.send_signal(number)

    def states(self) -> Iterator[tuple[str, str]]:
        """Each child's name, and `running` or `restarting`."""
        with self._lock:
            children = list(self._children.items())
        for name, running in children:
            yield name, "running" if running.due_s is None else "restarting"

    def stop(self) -> None:
        """Stop all children, the last started first: SIGTERM, and SIGKILL to whoever is still there after 20 s."""
        self._ending.set()
        self._watcher.join()
        for running in reversed(self._children.values()):
            _stop(running.process)
            logger.info("child.stopped", extra={"child": running.child.name})
        self._children.clear()

    def _watch(self) -> None:
        while not self._ending.wait(_POLL_S):
            with self._lock:
                for running in self._children.values():
                    _revive(running, time.monotonic())


def _revive(running: _Running, now_s: float) -> None:
    """Notice a death, and start the child again when its backoff has passed."""
    if running.due_s is None:
        status = running.process.poll()
        if status is None:
            return
        if now_s - running.since_s > _STABLE_S:
            running.backoff_s = _BACKOFF_FIRST_S
        running.due_s = now_s + running.backoff_s
        logger.warning(
            "child.died", extra={"child": running.child.name, "status": status, "retry_s": running.backoff_s}
        )
        running.backoff_s = min(_BACKOFF_MAX_S, running.backoff_s * 2)
    elif now_s >= running.due_s:
        running.process = _spawn(running.child)
        running.since_s, running.due_s = now_s, None
        logger.info("child.restarted", extra={"child": running.child.name})


def _spawn(child: Child) -> Process:
    return spawn(child.command, log_file=child.log_file, env=child.env, cwd=child.folder)


def _stop(process: Process) -> None:
    process.send_signal(SIGCONT)  # one that was stopped would never see the next signal
    process.send_signal(SIGTERM)
    try:
        process.wait(_STOP_WAIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _tail(file: Path) -> str:
    return file.read_text(errors="replace")[-_COMPLAINT_CHARS:] if file.exists() else "(empty)"

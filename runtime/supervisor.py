"""Keeps child processes running: starts them, restarts those that die, and stops them all in reverse order.

    with Supervisor() as supervisor:
        supervisor.start(Child("kafka", argv, log_file, is_ready=kafka.is_ready))
        supervisor.wait_ready("kafka")
        …                           until whoever made it has enough

It knows nothing of what it runs. A child that dies is started again with the same command after a pause that doubles
with each early death; it is never given up. No child outlives the supervisor, even when that one is killed.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import NamedTuple, Self

from observe.log import LogLine
from observe.supervisor import SupervisorEvent
from runtime.launch import Process, spawn

__all__ = ["Backoff", "Child", "NotReady", "State", "Status", "Supervisor"]

_log = logging.getLogger(__name__)
_POLL_S = 0.02
_CHECK_AGAIN_S = 1.0  # after a check that raised, which is logged each time
_LOG_BYTES_MAX = 10 << 20  # a log larger than that at a start is moved to `.1`
_EARLY_DEATHS_MAX = 3  # before its first readiness; whoever waits for it hears of it then


class NotReady(Exception):
    """Raised when a child is not ready in time, or dies again and again; the message ends with its log's last lines."""


class State(Enum):
    """Where a child stands."""

    STARTING = "starting"
    READY = "ready"
    WAITING = "waiting"  # dead, to be started again after a pause
    STOPPED = "stopped"


@dataclass(frozen=True)
class Child:
    """What to run, and how to know that it serves. `env` is the whole environment, None the supervisor's."""

    name: str
    argv: Sequence[str]
    log_file: Path
    env: Mapping[str, str] | None = None
    cwd: Path | None = None
    is_ready: Callable[[], bool] = lambda: True  # asked every 20 ms, on a thread of the child's own
    stop_wait_s: float = 15.0


@dataclass(frozen=True)
class Backoff:
    """The pause before a restart: `first_s`, doubled with each death in a row up to `max_s`.

    A child that was up for `reset_after_s` begins again at `first_s`.
    """

    first_s: float = 0.2
    max_s: float = 10.0
    reset_after_s: float = 30.0

    def pause_s(self, deaths: int) -> float:
        """The pause after the `deaths`-th death in a row, counted from 1."""
        return min(self.max_s, self.first_s * 2.0 ** min(deaths - 1, 30))


class Status(NamedTuple):
    """A child's state. `restarts` counts its deaths, `exit_code` is that of the last one (negative: the signal)."""

    name: str
    state: State
    pid: int | None
    restarts: int
    exit_code: int | None


_NO_BACKOFF = Backoff()


class Supervisor:
    """Runs children in the order in which they were started, each kept by a thread of its own."""

    def __init__(self, backoff: Backoff = _NO_BACKOFF) -> None:
        self._backoff = backoff
        self._keepers: dict[str, _Keeper] = {}

    def start(self, child: Child) -> None:
        """Start `child` and keep it running; returns at once."""
        assert child.name not in self._keepers, f"{child.name} is supervised already"
        keeper = _Keeper(child, self._backoff)
        self._keepers[child.name] = keeper
        keeper.begin()

    def wait_ready(self, name: str, timeout_s: float = 60.0) -> None:
        """Wait until the child is ready. Raises NotReady."""
        self._keepers[name].wait_ready(timeout_s)

    def status(self) -> list[Status]:
        """Every child's state, in the order of their starts."""
        return [keeper.status() for keeper in self._keepers.values()]

    def kill(self, name: str, sig: signal.Signals = signal.SIGKILL) -> None:
        """Send `sig` to the child; if that ends it, it is started again. Nothing happens while it is dead."""
        _say(SupervisorEvent.KILLED, child=name, signal=sig.name)
        self._keepers[name].send(sig)

    def stop(self) -> None:
        """Stop all children, the last one first; each gets its time to end before it is killed. Repeatable.

        May run beside a `start`: a child that begins meanwhile is stopped by the next call. A `kill` meanwhile ends a child
        that would take its time.
        """
        for keeper in reversed(list(self._keepers.values())):
            keeper.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class _Keeper:
    """One child over all its lives. `_lock` is held to signal it and to reap it, so that no signal hits another."""

    def __init__(self, child: Child, backoff: Backoff) -> None:
        self._child = child
        self._backoff = backoff
        self._lock = threading.Lock()
        self._process: Process | None = None
        self._stopping = threading.Event()
        self._state = State.STARTING
        self._restarts = 0
        self._deaths_in_a_row = 0
        self._exit_code: int | None = None
        self._was_ready = False
        self._thread = threading.Thread(target=self._keep, name=f"keeper-{child.name}", daemon=True)

    def begin(self) -> None:
        self._thread.start()

    def status(self) -> Status:
        with self._lock:
            pid = None if self._process is None else self._process.pid
            return Status(self._child.name, self._state, pid, self._restarts, self._exit_code)

    def wait_ready(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while self._state is not State.READY:
            if not self._was_ready and self._restarts >= _EARLY_DEATHS_MAX:
                raise NotReady(self._complaint(f"ended {self._restarts} times, last with exit code {self._exit_code}"))
            if self._state is State.STOPPED or time.monotonic() > deadline:
                raise NotReady(self._complaint(f"was not ready after {timeout_s:g} s"))
            time.sleep(_POLL_S)

    def send(self, sig: signal.Signals) -> None:
        with self._lock:
            if self._process is not None:
                os.kill(self._process.pid, sig)  # not `send_signal`, which reaps a process that has ended

    def stop(self) -> None:
        """Ask the child to end, wait, kill it when its time is up; return when it is gone."""
        self._stopping.set()
        self.send(signal.SIGTERM)
        self.send(signal.SIGCONT)  # one that was stopped would never see the request
        deadline = time.monotonic() + self._child.stop_wait_s
        while self._thread.is_alive():
            if time.monotonic() > deadline:
                self._force()
            self._thread.join(_POLL_S)

    def _force(self) -> None:
        _say(SupervisorEvent.FORCED, logging.WARNING, child=self._child.name, wait_s=self._child.stop_wait_s)
        self.send(signal.SIGKILL)
        self._thread.join()

    def _keep(self) -> None:
        while not self._stopping.is_set():
            began = time.monotonic()
            self._live_once(began)
            if not self._stopping.is_set():
                self._pause(up_s=time.monotonic() - began)
        self._state = State.STOPPED
        _say(SupervisorEvent.STOPPED, child=self._child.name, exit_code=self._exit_code)

    def _live_once(self, began: float) -> None:
        """Start the child and wait for its end."""
        process = self._spawn()
        if process is None:
            return
        _say(SupervisorEvent.STARTED, child=self._child.name, pid=process.pid)
        self._await_readiness(process, began)
        _await_end(process)
        with self._lock:
            # Whatever it has started and left behind goes with it. It is not reaped yet, so the group is still its own.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            self._exit_code = process.wait()
            self._process = None

    def _spawn(self) -> Process | None:
        """Under the lock, so that a stop either prevents the start or finds the process."""
        child = self._child
        with self._lock:
            if self._stopping.is_set():
                return None
            self._state = State.STARTING
            try:
                _rotate(child.log_file)
                self._process = spawn(child.argv, log_file=child.log_file, env=child.env, cwd=child.cwd)
            except OSError as error:
                _say(SupervisorEvent.NOT_STARTED, logging.WARNING, child=child.name, error=str(error))
            return self._process

    def _await_readiness(self, process: Process, began: float) -> None:
        while not _has_ended(process):
            if not self._stopping.is_set() and self._check():
                self._state, self._was_ready = State.READY, True
                took_s = round(time.monotonic() - began, 3)
                _say(SupervisorEvent.READY, child=self._child.name, pid=process.pid, took_s=took_s)
                return
            time.sleep(_POLL_S)

    def _check(self) -> bool:
        try:
            return self._child.is_ready()
        except Exception as error:  # noqa: BLE001  whatever a check does, it must not cost the child its keeper
            _say(SupervisorEvent.CHECK_FAILED, logging.WARNING, child=self._child.name, error=repr(error))
            self._stopping.wait(_CHECK_AGAIN_S)
            return False

    def _pause(self, up_s: float) -> None:
        self._deaths_in_a_row = 1 if up_s >= self._backoff.reset_after_s else self._deaths_in_a_row + 1
        self._restarts += 1
        pause_s = self._backoff.pause_s(self._deaths_in_a_row)
        self._state = State.WAITING
        _say(
            SupervisorEvent.ENDED,
            logging.WARNING,
            child=self._child.name,
            exit_code=self._exit_code,
            up_s=round(up_s, 3),
            restart_in_s=pause_s,
        )
        self._stopping.wait(pause_s)

    def _complaint(self, what: str) -> str:
        file = self._child.log_file
        said = file.read_text(errors="replace")[-2000:] if file.exists() else ""
        return f"{self._child.name} {what}; its log is {file}.\n{said}"


def _has_ended(process: Process) -> bool:
    """Whether the process has ended, without reaping it: its group must stay its own until that is killed."""
    if not hasattr(os, "waitid"):  # macOS before Python 3.13: there it is reaped, and its group may be gone
        return process.poll() is not None
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None


def _await_end(process: Process) -> None:
    while not _has_ended(process):
        time.sleep(_POLL_S)


def _rotate(log_file: Path) -> None:
    if log_file.exists() and log_file.stat().st_size > _LOG_BYTES_MAX:
        log_file.replace(log_file.with_name(log_file.name + ".1"))


def _say(event: SupervisorEvent, level: int = logging.INFO, **fields: object) -> None:
    _log.log(level, LogLine(event, fields))

"""`meterlog forwarder` with a fault planted; it kills itself where the fault hurts.

python -m tests.faults.broken_forwarder FAULT
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Final

from runtime.settings import load_settings
from sinks.forward.forwarder import Forwarder, Gap
from sinks.forward.pace import Lane
from sinks.forward.port import Record
from sinks.forward.process import run
from sinks.forward.settings import ForwarderSettings

__all__ = ["FAULTS"]


def _sound() -> None:
    """As it is."""


def _noted_before_the_log_has_it() -> None:
    """A record's place is noted as soon as it is taken, and before anything is appended."""
    sound_take, sound_append = Lane.take, Forwarder._append

    def take(self: Lane) -> Record:
        record = sound_take(self)
        self.noted = record.offset + 1
        return record

    def append(self: Forwarder) -> int:
        log, self._log = self._log, _Nowhere()  # type: ignore[assignment]
        count = sound_append(self)
        self._log = log
        self._note(list(self._lanes.values()), wait=True)
        return count

    Lane.take = take  # type: ignore[method-assign]
    Forwarder._append = append  # type: ignore[method-assign]


class _Nowhere:
    """The process dies before what it took reaches the log."""

    def append(self, record: Record) -> None:
        pass


FAULTS: Final[dict[str, Callable[[], None]]] = {
    "none": _sound,
    "noted before the log has it": _noted_before_the_log_has_it,
}


def _dying_at(name: str) -> Gap:
    def gap(reached: str) -> None:
        if reached == name:
            os.kill(os.getpid(), signal.SIGKILL)

    return gap


def main() -> int:
    (name,) = sys.argv[1:]
    FAULTS[name]()
    settings = load_settings(None)
    forwarder = ForwarderSettings(settings.bootstrap_servers, window=settings.forwarder_window)
    return run(forwarder, threading.Event(), gap=_dying_at("appended"))


if __name__ == "__main__":
    sys.exit(main())

"""`meterlog worker` with something odd about it, which a scenario wants: `python -m tests.faults.odd_worker ODDITIES_AS_JSON`.

Settings come from the environment, as the real worker's do. Oddities: `clock_file`, which holds the seconds by which its clock
is wrong, read at each look; `poison`, the event id on which its rules raise; `state_age_max_s`, after which its tables count as
too old; `unfenced`, whose transactions bear a name of this process's own; `sleeps_at_epoch`, whose number
it has decided and not begun to commit when it stops itself (SIGSTOP).
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any, cast

import aiokafka

from billing.behaviours import BEHAVIOURS
from billing.catalog.types import Catalog
from billing.facts import Fact
from billing.records import Logged, Position, UsageEvent
from billing.state import State
from runtime.errors import CommandError
from runtime.processes import run_worker_process
from runtime.settings import load_settings
from streams.options import Options
from streams.producers import PartitionWriter

__all__ = ["ODDITIES"]

EXIT_REFUSED = 2


def _wrong_clock(clock_file: str) -> None:
    """The wall clock alone; what measures durations goes on as it should."""
    file, real_s, real_ns = Path(clock_file), time.time, time.time_ns

    def off_s() -> float:
        return float(file.read_text() or 0)

    vars(time)["time"] = lambda: real_s() + off_s()
    vars(time)["time_ns"] = lambda: real_ns() + int(off_s() * 1_000_000_000)


def _poisoned(event_id: str) -> None:
    """Every version of the rules raises on this event."""
    for version, rules in list(BEHAVIOURS.items()):

        def decide(
            state: State,
            catalog: Catalog,
            logged: Logged,
            position: Position,
            sound: Callable[..., list[Fact]] = rules.decide,
        ) -> list[Fact]:
            if isinstance(logged.record, UsageEvent) and logged.record.event_id == event_id:
                message = f"planted: {event_id}"
                raise ZeroDivisionError(message)
            return sound(state, catalog, logged, position)

        cast("dict[int, Any]", BEHAVIOURS)[version] = rules._replace(decide=decide)


def _forgetful(state_age_max_s: float) -> None:
    sound = Options.__init__

    def init(self: Options, *arguments: Any, **settings: Any) -> None:
        sound(self, *arguments, **settings | {"state_age_max_ms": round(state_age_max_s * 1_000)})

    Options.__init__ = init  # type: ignore[method-assign]


def _unfenced(_: bool) -> None:
    """The broker takes a successor's writer for somebody else's, and refuses neither."""
    sound = aiokafka.AIOKafkaProducer.__init__

    def init(self: aiokafka.AIOKafkaProducer, *arguments: Any, **settings: Any) -> None:
        if name := settings.get("transactional_id"):
            settings["transactional_id"] = f"{name}-{os.getpid()}"
        sound(self, *arguments, **settings)

    aiokafka.AIOKafkaProducer.__init__ = init


def _sleepy(epoch_number: int) -> None:
    sound, numbers = PartitionWriter.begin, count(1)

    async def begin(self: PartitionWriter) -> None:
        if next(numbers) == epoch_number:
            os.kill(os.getpid(), signal.SIGSTOP)
        await sound(self)

    PartitionWriter.begin = begin  # type: ignore[method-assign]


ODDITIES: dict[str, Callable[[Any], None]] = {
    "clock_file": _wrong_clock,
    "poison": _poisoned,
    "state_age_max_s": _forgetful,
    "unfenced": _unfenced,
    "sleeps_at_epoch": _sleepy,
}


def main() -> int:
    for name, value in json.loads(sys.argv[1]).items():
        ODDITIES[name](value)
    try:
        return run_worker_process(load_settings(None))
    except CommandError as exc:
        sys.stderr.write(f"meterlog: {exc}\n")
        return EXIT_REFUSED


if __name__ == "__main__":
    sys.exit(main())

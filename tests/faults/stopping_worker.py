"""`meterlog worker` with a rule that raises on one customer's events, and with a clock that can be set a year back meanwhile.

    python -m tests.faults.stopping_worker

It is a year back for as long as the file `clock-is-back` lies in the data directory: to the worker, the broker is a year ahead.
"""

from __future__ import annotations

import sys
import time
from functools import partial
from typing import Any, Final

from billing.behaviours import BEHAVIOURS, Rules
from billing.catalog.types import Catalog
from billing.facts import Fact
from billing.records import Logged, Position
from billing.state import State
from runtime.processes import run_worker_process
from runtime.settings import Settings, load_settings
from streams import options

__all__ = ["POISONED_CUSTOMER", "clock_is_back"]

POISONED_CUSTOMER: Final = "poisoned"
_YEAR_MS: Final = 365 * 86_400_000


def clock_is_back(data_dir: Any) -> Any:
    """The file that sets the clock back."""
    return data_dir / "clock-is-back"


def _plant_rule() -> None:
    sound = BEHAVIOURS[1]

    def decide(state: State, catalog: Catalog, logged: Logged, position: Position) -> list[Fact]:
        if logged.key is not None and logged.key.endswith(f"/{POISONED_CUSTOMER}".encode()):
            raise ZeroDivisionError("planted")
        return sound.decide(state, catalog, logged, position)

    planted: Any = BEHAVIOURS
    planted[1] = Rules(decide, sound.evolve, sound.is_due)


def _plant_clock(settings: Settings) -> None:
    file = clock_is_back(settings.data_dir)

    def now_ms() -> int:
        return time.time_ns() // 1_000_000 - (_YEAR_MS if file.exists() else 0)

    vars(options)["Options"] = partial(options.Options, now_ms=now_ms)


def main() -> int:
    settings = load_settings(None)
    _plant_rule()
    _plant_clock(settings)
    return run_worker_process(settings)


if __name__ == "__main__":
    sys.exit(main())

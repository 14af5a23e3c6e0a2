"""A replay of dead letters that is killed between the append of the records and the marks that tell of them.

    python -m tests.faults.killed_replay FAULT BOOTSTRAP_SERVERS

FAULT is `none`, or `records and marks apart`: two transactions, which the check must find.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

from confluent_kafka import Producer
from rich.console import Console

from billing.catalog.builtin import BUILTIN_CATALOG
from billing.facts import Reason
from runtime import dead_letters
from runtime.letters import Selection

__all__ = ["APART"]

APART = "records and marks apart"


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _killed(fault: str) -> None:
    sound = dead_letters.append_records

    def append_records(producer: Producer, *rest: Any) -> Any:
        marks = sound(producer, *rest)
        if fault == APART:
            producer.commit_transaction()
        _kill()
        return marks

    dead_letters.append_records = append_records  # type: ignore[assignment]


if __name__ == "__main__":
    _killed(sys.argv[1])
    dead_letters.replay_letters(
        sys.argv[2],
        Selection(reason=Reason.MISROUTED),
        BUILTIN_CATALOG,
        lambda: time.time_ns() // 1_000_000,
        Console(stderr=True),
    )

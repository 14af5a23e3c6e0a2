"""`meterlog worker` with a fault planted into its durability order; it kills itself where the fault hurts.

    python -m tests.faults.broken_worker FAULT

Settings come from the environment, as the real worker's do.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Final, NamedTuple

from billing.catalog.builtin import BUILTIN_CATALOG
from runtime.settings import load_settings
from streams import engine, epoch, loader
from streams.epoch import Gap
from streams.options import Options, TopicNames
from streams.overlay import PartitionRows
from streams.port import Epoch
from streams.producers import PartitionWriter
from streams.usage import UsageFold
from streams.worker import run_worker

__all__ = ["FAULTS"]


def _nothing() -> None:
    """The engine as it is."""


def _commit_not_awaited() -> None:
    """Step 1d is begun and not awaited: the local rows are written as if the transaction had ended."""
    sound_commit = PartitionWriter.commit
    left_alone = set()

    async def commit(self: PartitionWriter) -> None:
        left_alone.add(asyncio.create_task(sound_commit(self)))

    PartitionWriter.commit = commit  # type: ignore[method-assign]


def _facts_apart() -> None:
    """Facts are committed by themselves, the position that says so in the next transaction."""
    sound_commit = epoch.commit

    async def commit(
        whole: Epoch,
        writer: PartitionWriter,
        rows: PartitionRows,
        topics: TopicNames,
        now_ms: Callable[[], int],
        gap: Gap,
    ) -> None:
        await writer.begin()
        await (await writer.send(topics.ledger, whole.ledger)).acknowledged()
        await writer.commit()
        gap("facts committed")
        await sound_commit(replace(whole, ledger=[]), writer, rows, topics, now_ms, gap)

    vars(engine)["commit"] = commit


def _not_compared() -> None:
    """A take-over believes its tables, whatever their changelogs say: the second line of defence is down."""

    async def nothing(*_: object) -> set[object]:
        return set()

    vars(loader)["contradicting"] = nothing


class Fault(NamedTuple):
    plant: Callable[[], None]
    dies_at: str
    """The gap at which the fault hurts."""


FAULTS: Final = {
    "none": Fault(_nothing, "written"),
    "the commit is not awaited": Fault(_commit_not_awaited, "written"),
    "facts are committed before their position": Fault(_facts_apart, "facts committed"),
    "the tables are not compared": Fault(_not_compared, "nowhere"),
}


def _dying_at(name: str) -> Gap:
    """The first time is enough, and the only one that is certain: aiokafka itself stops some of the faults at the next commit."""

    def gap(reached: str) -> None:
        if reached == name:
            os.kill(os.getpid(), signal.SIGKILL)

    return gap


def main() -> int:
    (name,) = sys.argv[1:]
    fault = FAULTS[name]
    fault.plant()
    settings = load_settings(None)
    options = Options(
        bootstrap_servers=settings.bootstrap_servers,
        data_dir=settings.data_dir / "worker",
        instance_id=settings.worker_instance_id,
        session_timeout_s=settings.worker_session_timeout_s,
    )
    return run_worker(options, UsageFold(BUILTIN_CATALOG), gap=_dying_at(fault.dies_at))


if __name__ == "__main__":
    sys.exit(main())

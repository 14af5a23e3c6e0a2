"""A worker on the toy fold, as a process of its own: `python -m tests.streams.worker_process PLAN_AS_JSON`."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from streams.engine import Engine
from streams.epoch import Gap, no_gap
from streams.errors import RefusedToStart
from streams.options import Options, TopicNames
from streams.worker import run_worker
from tests.streams import planted
from tests.streams.toy import ToyFold

EXIT_REFUSED = 1


@dataclass(frozen=True)
class Plan:
    """What the process does; travels as JSON."""

    bootstrap_servers: str
    prefix: str
    data_dir: str
    instance_id: str | None = None
    session_timeout_s: float = 2.0
    records_per_epoch_max: int = 500
    stop_timeout_s: float = 10.0
    die_at: str | None = None
    """A gap of the durability order."""
    die_at_count: int = 1
    """Which time that the gap is reached."""
    die_by: int = signal.SIGKILL
    planted: str | None = None
    """The name of a fault of `planted`."""
    append_ticks: bool = False
    standby_replicas: int = 1

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @property
    def options(self) -> Options:
        return Options(
            self.bootstrap_servers,
            Path(self.data_dir),
            group=f"{self.prefix}-fold",
            instance_id=self.instance_id,
            session_timeout_s=self.session_timeout_s,
            stop_timeout_s=self.stop_timeout_s,
            topics=topic_names(self.prefix),
            records_per_epoch_max=self.records_per_epoch_max,
            standby_replicas=self.standby_replicas,
        )

    @property
    def gap(self) -> Gap:
        return no_gap if self.die_at is None else self._dying_gap()

    def _dying_gap(self) -> Gap:
        reached: Counter[str] = Counter()

        def gap(name: str) -> None:
            reached[name] += 1
            if name == self.die_at and reached[name] == self.die_at_count:
                os.kill(os.getpid(), self.die_by)

        return gap


def topic_names(prefix: str) -> TopicNames:
    return TopicNames(*(f"{prefix}-{name}" for name in ("source", "ledger", "totals", "dead", "accounts", "seen")))


async def append_one_to_each(engine: Engine) -> None:
    """Work beside the fold: one unreadable record on every partition that this worker comes to own."""
    done: set[int] = set()
    while True:
        for number in set(engine.partitions) - done:
            await engine.append(number, b"tick")
            done.add(number)
        await asyncio.sleep(0.05)


def main() -> int:
    plan = Plan(**json.loads(sys.argv[1]))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    if plan.planted is not None:
        planted.FAULTS[plan.planted]()
    try:
        return run_worker(plan.options, ToyFold(), append_one_to_each if plan.append_ticks else None, plan.gap)
    except RefusedToStart as refusal:
        logging.critical("refused: %s", refusal)
        return EXIT_REFUSED


if __name__ == "__main__":
    sys.exit(main())

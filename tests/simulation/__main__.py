"""`python -m tests.simulation play SEED [--only STEPS]`: one history. `… soak`: as many as fit into SOAK_MINUTES."""

from __future__ import annotations

import argparse
import gc
import logging
import multiprocessing
import os
import random
import sys
import time
from collections import Counter
from multiprocessing.synchronize import Event
from typing import NamedTuple

from tests.simulation.plan import plan_of
from tests.simulation.telling import minimal_history, told
from tests.simulation.world import play

_MINUTES = 15.0
_ROUND = 50
_SHOWN = ("records", "decisions", "kills", "stops", "leaves", "zombies", "pauses", "rebalances")


class Found(NamedTuple):
    """What one process has to say."""

    history_count: int
    counts: Counter[str]
    failed_seed: int | None


def main(arguments: list[str]) -> int:
    """Exit code 1 when a history failed."""
    logging.getLogger("meterlog.streams").disabled = True  # workers that die say so a thousand times
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("play")
    one.add_argument("seed", type=int)
    one.add_argument("--only", help="numbers of the steps to keep, separated by commas")
    commands.add_parser("soak")
    given = parser.parse_args(arguments)
    return _play(given.seed, given.only) if given.command == "play" else _soak()


def _play(seed: int, only: str | None) -> int:
    plan = plan_of(seed)
    if only is not None:
        plan = plan.only([int(number) for number in only.split(",") if number])
    outcome = play(plan)
    print(told(plan, outcome))  # noqa: T201  a command's output
    return 1 if outcome.differences else 0


def _soak() -> int:
    """Seeds from a random beginning, on all cores, until the time is over or a history fails."""
    minutes = float(os.environ.get("SOAK_MINUTES", _MINUTES))
    first_seed = int(os.environ.get("SIMULATION_SEED", random.SystemRandom().randrange(1 << 40)))
    process_count = os.cpu_count() or 1
    print(f"soak: seeds from {first_seed}, {process_count} processes, {minutes:g} minutes", flush=True)  # noqa: T201
    context = multiprocessing.get_context("fork")
    results: multiprocessing.SimpleQueue[Found] = context.SimpleQueue()
    stopping = context.Event()
    deadline_s = time.monotonic() + minutes * 60
    workers = [
        context.Process(target=_soak_part, args=(first_seed + index, process_count, deadline_s, stopping, results))
        for index in range(process_count)
    ]
    for worker in workers:
        worker.start()
    found = [results.get() for _ in workers]
    for worker in workers:
        worker.join()
    counts = sum((part.counts for part in found), Counter())
    failed = [part.failed_seed for part in found if part.failed_seed is not None]
    figures = ", ".join(f"{counts[name]:,} {name}" for name in _SHOWN)
    print(f"{sum(part.history_count for part in found):,} histories: {figures}; {len(failed)} failed")  # noqa: T201
    for seed in failed:
        print(minimal_history(plan_of(seed)))  # noqa: T201
    return 1 if failed else 0


def _soak_part(
    first_seed: int, step: int, deadline_s: float, stopping: Event, results: multiprocessing.SimpleQueue[Found]
) -> None:
    counts: Counter[str] = Counter()
    history_count = 0
    gc.freeze()
    seed = first_seed
    while time.monotonic() < deadline_s and not stopping.is_set():
        for _ in range(_ROUND):
            outcome = play(plan_of(seed))
            history_count += 1
            counts += outcome.counts
            if outcome.differences:
                stopping.set()
                results.put(Found(history_count, counts, seed))
                return
            seed += step
    results.put(Found(history_count, counts, None))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

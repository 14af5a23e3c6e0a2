"""`make faults`: every fault on real brokers and workers, and a table of what came of them.

    FAULTS_RUNS=3  FAULTS_SEED=1f2e3d4c  FAULTS_ONLY='sleeps,torn'  FAULTS_JSON=file  make faults

Each run has a seed of its own, which is told; FAULTS_SEED repeats one. FAULTS_ONLY: scenarios whose name has one of these.
Exit 1 on any difference; logs and data of the run then stay where the last line says.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sys
import tempfile
from pathlib import Path

from tests.faults.running import Outcome, perform_all
from tests.faults.scenarios import SCENARIOS, Scenario


def main() -> int:
    runs, seed = int(os.environ.get("FAULTS_RUNS", "1")), os.environ.get("FAULTS_SEED") or secrets.token_hex(4)
    chosen = _chosen(os.environ.get("FAULTS_ONLY", ""))
    directory = Path(tempfile.mkdtemp(prefix="faults-"))
    outcomes = []
    for outcome in perform_all(chosen, [seed if run == 0 else f"{seed}.{run}" for run in range(runs)], directory):
        _tell(outcome)
        outcomes.append(outcome)
    print(_table(outcomes))  # noqa: T201
    _write_json(outcomes)
    if any(outcome.differences for outcome in outcomes):
        print(f"data and logs: {directory}")  # noqa: T201
        return 1
    shutil.rmtree(directory)
    return 0


def _chosen(only: str) -> list[Scenario]:
    parts = [part.strip() for part in only.split(",") if part.strip()]
    found = [scenario for name, scenario in SCENARIOS.items() if not parts or any(part in name for part in parts)]
    if not found:
        sys.exit(f"FAULTS_ONLY={only} names no scenario; there are: {', '.join(SCENARIOS)}")
    return found


def _tell(outcome: Outcome) -> None:
    """As it comes: a long run shows that it lives."""
    if outcome.skipped:
        print(f"{outcome.scenario}: SKIPPED, {outcome.skipped}", flush=True)  # noqa: T201
        return
    notes = f" ({'; '.join(outcome.notes)})" if outcome.notes else ""
    print(f"{outcome.scenario}: {outcome.duration_s} s, FAULTS_SEED={outcome.seed}{notes}", flush=True)  # noqa: T201
    for difference in outcome.differences:
        print(f"    {difference}", flush=True)  # noqa: T201


def _table(outcomes: list[Outcome]) -> str:
    """Faults x runs x events x differences."""
    lines = [f"{'fault':<58} {'runs':>5} {'events':>8} {'differences':>12}", "-" * 86]
    for name in dict.fromkeys(outcome.scenario for outcome in outcomes):
        lines.append(_line(name, [outcome for outcome in outcomes if outcome.scenario == name]))
    return "\n".join([*lines, "-" * 86, _line("all", outcomes)])


def _line(name: str, outcomes: list[Outcome]) -> str:
    events = sum(outcome.events for outcome in outcomes)
    differences = sum(len(outcome.differences) for outcome in outcomes)
    played = [outcome for outcome in outcomes if not outcome.skipped]
    found = str(differences) if played else "skipped"
    return f"{name:<58} {len(played):>5} {events:>8} {found:>12}"


def _write_json(outcomes: list[Outcome]) -> None:
    if file := os.environ.get("FAULTS_JSON"):
        Path(file).write_text(json.dumps([outcome._asdict() for outcome in outcomes], indent=2))


if __name__ == "__main__":
    sys.exit(main())

"""Runs scenarios, those of one kind of deployment on one, and tells what came of each."""

from __future__ import annotations

import random
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from tests.faults.clocked_kafka import ClockedKafka, NoCompiler
from tests.faults.deployment import Deployment
from tests.faults.scenarios import Act, Scenario, Site, Skipped

__all__ = ["Outcome", "open_site", "perform", "perform_all"]


class Outcome(NamedTuple):
    """One run of a scenario."""

    scenario: str
    seed: str
    events: int
    """Sent to the log: repeats and broken ones included."""
    duration_s: float
    differences: list[str]
    """Between what was sent and any book; or what else was not as it should be."""
    notes: list[str]
    skipped: str | None = None
    """Why it could not be played here."""


def perform(deployment: Deployment, scenario: Scenario, seed: str) -> Outcome:
    """One run, and the books after it. Whatever goes wrong is told as a difference; the deployment is of no use then."""
    begun = time.monotonic()
    differences = []
    try:
        deployment.begin()
        scenario.run(Act(deployment, random.Random(f"{seed}/{scenario.name}"), f"{seed}/{scenario.name}"))
        differences = deployment.differences()
    except Skipped as reason:
        return Outcome(scenario.name, seed, 0, 0.0, [], [], str(reason))
    except Exception:  # noqa: BLE001  a table with a failure in it says more than the first traceback
        differences.append(traceback.format_exc())
    duration_s = round(time.monotonic() - begun, 1)
    return Outcome(scenario.name, seed, deployment.sent_count, duration_s, differences, [*deployment.notes])


def open_site(site: Site, directory: Path) -> Deployment:
    """A deployment of this kind, not started. Raises Skipped."""
    match site.kind:
        case "clock":
            try:
                return Deployment(directory, kafka=ClockedKafka(directory / "kafka"))
            except NoCompiler as exc:
                raise Skipped(str(exc)) from exc
        case "compacted":
            return Deployment(directory, broker_settings={"log.cleaner.backoff.ms": 500})
        case _:
            return Deployment(directory, brokers=site.brokers)


def perform_all(scenarios: Sequence[Scenario], seeds: Sequence[str], directory: Path) -> Iterator[Outcome]:
    """Every scenario with every seed. After a difference the next one gets a new deployment."""
    sites = dict.fromkeys(scenario.site for scenario in scenarios)
    for site in sites:
        here = [(scenario, seed) for seed in seeds for scenario in scenarios if scenario.site == site]
        while here:
            try:
                made = open_site(site, directory / f"site-{time.monotonic_ns():x}")
            except Skipped as reason:
                yield from (Outcome(each.name, seed, 0, 0.0, [], [], str(reason)) for each, seed in here)
                break
            with ExitStack() as stack:
                deployment = stack.enter_context(made)
                is_sound = True
                while here and is_sound:
                    outcome = perform(deployment, *here.pop(0))
                    is_sound = not outcome.differences
                    yield outcome

"""The short form of `make faults`: the scenarios that `make test` runs, one after the other on one deployment."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.faults.books import Differences, compare_ledger, read_ledger, read_topic
from tests.faults.deployment import Deployment
from tests.faults.naive import Model
from tests.faults.running import open_site, perform
from tests.faults.scenarios import ONE_BROKER, SCENARIOS
from tests.faults.tables import compare_rows, compare_totals, disk_differences, last_values

pytestmark = [pytest.mark.broker, pytest.mark.faults]

SEED = os.environ.get("FAULTS_SEED") or secrets.token_hex(4)
_SHORT = [scenario for scenario in SCENARIOS.values() if scenario.in_short]


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with open_site(ONE_BROKER, tmp_path_factory.mktemp("faults")) as made:
        yield made


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", [scenario.name for scenario in _SHORT])
def test_every_book_says_what_was_sent_though(deployment: Deployment, name: str) -> None:
    print(f"FAULTS_SEED={SEED}")  # noqa: T201  pytest shows it with a failure
    outcome = perform(deployment, SCENARIOS[name], SEED)
    assert outcome.differences == []
    assert outcome.events > 0, "a fault without load shows nothing"


# What would pass if a check compared nothing

Rows = dict[int, dict[bytes, bytes]]


def _without_one(rows: Rows, prefix: bytes = b"") -> Rows:
    partition, key = next((p, key) for p, of in rows.items() for key in of if key.startswith(prefix))
    return rows | {partition: {k: v for k, v in rows[partition].items() if k != key}}


def _ledger_with_a_fact_twice(books: dict[str, Any]) -> Differences:
    entries = books["ledger"]
    return compare_ledger(books["log"], read_ledger([*entries[:5], entries[4], *entries[5:]]), books["model"])


def _ledger_that_lacks_a_fact(books: dict[str, Any]) -> Differences:
    entries = books["ledger"]
    return compare_ledger(books["log"], read_ledger([*entries[:5], *entries[6:]]), books["model"])


def _total_that_is_missing(books: dict[str, Any]) -> Differences:
    return compare_totals(_without_one(books["totals"], b"t"), books["model"])


def _hour_of_stripes_that_is_missing(books: dict[str, Any]) -> Differences:
    totals = books["totals"]
    for partition, rows in totals.items():
        for key in rows:
            lacking = totals | {partition: {k: v for k, v in rows.items() if k != key}}
            if key.startswith(b"u") and (found := compare_totals(lacking, books["model"])):
                return found  # an hour of nothing may be missing
    return []


def _id_that_is_forgotten(books: dict[str, Any]) -> Differences:
    return compare_rows(books["accounts"], _without_one(books["seen"]), books["totals"], books["model"])


def _row_that_was_not_written(books: dict[str, Any]) -> Differences:
    return compare_rows(_without_one(books["accounts"], b"t"), books["seen"], books["totals"], books["model"])


@pytest.mark.parametrize(
    "fault",
    [
        _ledger_with_a_fact_twice,
        _ledger_that_lacks_a_fact,
        _total_that_is_missing,
        _hour_of_stripes_that_is_missing,
        _id_that_is_forgotten,
        _row_that_was_not_written,
    ],
)
def test_a_planted_fault_is_found_in(books: dict[str, Any], fault: Callable[[dict[str, Any]], Differences]) -> None:
    """By the books of the scenarios before, each of which agreed."""
    assert fault(books) != []


@pytest.fixture(scope="module")
def books(deployment: Deployment) -> dict[str, Any]:
    def read(topic: str) -> Any:
        return read_topic(deployment.bootstrap_servers, topic)

    rows = {name: last_values(read(f"{name}-changelog")) for name in ("accounts", "seen")}
    model: Model = deployment.model
    return {
        "log": read("usage-events"),
        "ledger": read("ledger"),
        "totals": last_values(read("usage-totals")),
        "model": model,
        **rows,
    }


def test_a_table_on_disk_that_is_behind_its_changelog_is_found(deployment: Deployment) -> None:
    """One that is another partition's, which is as wrong as a table can be."""
    tables = next(worker.tables for worker in deployment.workers.values() if (worker.tables / "accounts-0").exists())
    (tables / "accounts-9").symlink_to(tables / "accounts-0")
    assert disk_differences(deployment.bootstrap_servers, tables, [9]) != []

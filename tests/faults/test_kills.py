"""SIGKILL of every process at random moments, under load through both doors: in the end every book says what was sent.

FAULTS_SEED=… FAULTS_ROUNDS=… pytest tests/faults/test_kills.py        a run again, or a longer one
"""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from runtime.stack import Stack
from tests.faults.books import Differences, is_folded, ledger_differences
from tests.faults.command import create_key, run_json
from tests.faults.load import ORGS, HttpDoor, KafkaDoor, Load
from tests.faults.naive import Model, Sum, Used
from tests.faults.stores import clickhouse_differences, stripe_differences
from tests.waiting import wait_until

pytestmark = [pytest.mark.broker, pytest.mark.faults]

SEED = os.environ.get("FAULTS_SEED") or secrets.token_hex(4)
ROUNDS = int(os.environ.get("FAULTS_ROUNDS", "1"))
_VICTIMS = {
    "worker": 3,
    "sink clickhouse": 2,
    "sink stripe": 2,
    "api": 2,
    "kafka": 1,
    "clickhouse": 1,
    "stripe double": 1,
}
"""How often each process is killed in a round."""
_BETWEEN_KILLS = (100, 800)
"""Events that are sent from one kill to the next."""
_CATCH_UP_S = 90.0
_RATE = 250.0


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    with Stack(tmp_path, api_port=0, stripe_send_interval_s=0.5) as made:
        for _ in made.start():
            pass
        yield made


def load_of(stack: Stack) -> Load:
    now_us = time.time_ns() // 1_000
    keys = {org: create_key(stack.data_dir, org) for org in ORGS}
    http = HttpDoor(stack.api_url, keys, SEED, now_us, _RATE)
    http.wait_open()
    kafka = KafkaDoor(stack.settings.bootstrap_servers, SEED, now_us, _RATE)
    kafka.others = http.events
    return Load([kafka, http])


def kills(rng: random.Random) -> Iterator[tuple[int, str]]:
    """After how many more events which process dies."""
    for _ in range(ROUNDS):
        victims = [name for name, times in _VICTIMS.items() for _ in range(times)]
        for name in rng.sample(victims, len(victims)):
            yield rng.randrange(*_BETWEEN_KILLS), name


def kill(stack: Stack, name: str) -> None:
    """SIGKILL, however short a time ago the process was started."""
    wait_until(lambda: stack.pid(name) is not None, f"{name} runs again")
    print(f"SIGKILL {name}")  # noqa: T201  pytest shows it with a failure
    stack.kill(name)


def eventually(check: Callable[[], Differences]) -> None:
    """Wait until a book is exact. Fails with the differences that are left when it should have caught up."""
    found: Differences = []

    def is_exact() -> bool:
        found[:] = _found_by(check)
        return found == []

    with contextlib.suppress(AssertionError):  # which would not say what is left
        wait_until(is_exact, "the book is exact", _CATCH_UP_S)
    assert found == []


def _found_by(check: Callable[[], Differences]) -> Differences:
    """What was killed last may not serve yet: that is a difference too."""
    try:
        return check()
    except OSError as exc:
        return [repr(exc)]


def books_of(stack: Stack, model: Model) -> dict[str, Callable[[], Differences]]:
    """Each book's differences to what was sent."""
    settings = stack.settings
    password, stripe_url = settings.clickhouse_password.get_secret_value(), settings.stripe_url
    assert stripe_url is not None, "without an API key Stripe is the double"
    return {
        "ledger": lambda: ledger_differences(settings.bootstrap_servers, model),
        "clickhouse": lambda: clickhouse_differences(
            settings.clickhouse_url, settings.clickhouse_user, password, model
        ),
        "stripe": lambda: stripe_differences(stripe_url, model),
    }


def assert_books(stack: Stack, model: Model) -> None:
    """Ledger, ClickHouse and Stripe, each against what was sent."""
    wait_until(lambda: is_folded(stack.settings.bootstrap_servers), "everything is folded", _CATCH_UP_S)
    books = books_of(stack, model)
    assert books["ledger"]() == []
    eventually(books["clickhouse"])
    eventually(books["stripe"])


def assert_books_lack(stack: Stack, model: Model) -> None:
    """One event more than was sent: each check notices. Without this, one that compares nothing would pass."""
    one = next(event for event in model.events.values() if event.meter == "searches" and event.quantity == "1")
    model.send(one._replace(event_id="never sent"))
    assert [name for name, check in books_of(stack, model).items() if not check()] == []


def assert_audit(stack: Stack, model: Model) -> None:
    """`meterlog audit` exits 0, and tells the same."""
    audit = run_json("audit", "--json", data_dir=stack.data_dir)
    usage = {Used(row["account"], row["meter"]): Sum(Decimal(row["quantity"]), row["events"]) for row in audit["usage"]}
    assert audit["counted"] == len(model.counted)
    assert audit["rejected"] == dict(model.rejected)
    assert audit["accepted"] == audit["counted"] + audit["duplicate"] + sum(audit["rejected"].values())
    assert usage == model.usage


@pytest.mark.timeout(300 * ROUNDS)
def test_every_process_dies_at_random_moments_and_every_book_says_what_was_sent(stack: Stack) -> None:
    print(f"FAULTS_SEED={SEED}")  # noqa: T201  pytest shows it with a failure
    load = load_of(stack)
    with load.running():
        for events_before, name in kills(random.Random(SEED)):
            load.wait_sent(events_before)
            kill(stack, name)
        load.wait_sent(_BETWEEN_KILLS[1])
    assert_books(stack, load.model)
    assert_audit(stack, load.model)
    assert_books_lack(stack, load.model)

"""A broker, a double and sink processes, and the totals that a fold would write: what the tests of the whole sink stand on."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from billing.quantities import plain
from billing.routing import partition_of
from billing.state import StripeHour, StripeHourKey
from runtime.embedded.stripe import make_app, running, system_clock
from schemas.intents import Intent, Outcome, Target, Told, Window, reduce_intents
from schemas.rows import STRIPE_HOURS
from schemas.topics import STRIPE_INTENTS, TOPICS, USAGE_TOTALS
from schemas.totals import encode_stripe_hour
from sinks.stripe.log import read_intents

REPOSITORY = Path(__file__).parents[3]
PARTITIONS = 4


def make_topics(bootstrap_servers: str) -> None:
    """The sink's two topics, with their settings, empty."""
    admin = AdminClient({"bootstrap.servers": bootstrap_servers})
    wanted = [topic for topic in TOPICS if topic.name in (STRIPE_INTENTS, USAGE_TOTALS)]
    made = admin.create_topics([NewTopic(topic.name, PARTITIONS, 1, config=topic.settings) for topic in wanted])
    for future in made.values():
        future.result(30)


class Fold:
    """Writes growing totals as the fold does: absolute, versioned, an epoch a transaction."""

    def __init__(self, bootstrap_servers: str, seed: int = 0) -> None:
        self.random = random.Random(seed)
        self.nano: dict[StripeHourKey, int] = {}
        self._offset = 0
        self._producer = Producer({"bootstrap.servers": bootstrap_servers, "transactional.id": "test-fold"})
        self._producer.init_transactions(30)

    def add(self, *added: tuple[StripeHourKey, int], commit: bool = True) -> None:
        """One epoch that adds nano-units to rows."""
        self._producer.begin_transaction()
        for key, nano in added:
            self._offset += 1
            total = self.nano.get(key, 0) + nano
            if commit:
                self.nano[key] = total
            partition = partition_of(key.account.encode(), PARTITIONS)
            value = encode_stripe_hour(partition, key, StripeHour(total, self._offset))
            self._producer.produce(USAGE_TOTALS, value, STRIPE_HOURS.encode_key(key), partition=partition)
        if commit:
            self._producer.commit_transaction(30)
        else:
            self._producer.flush(30)
            self._producer.abort_transaction(30)

    def expected(self) -> dict[Window, str]:
        """What Stripe must have in the end: the sum of each window's rows."""
        sums: dict[Window, int] = {}
        for key, nano in self.nano.items():
            window = Window(key.stripe_customer, key.stripe_event_name, key.hour)
            sums[window] = sums.get(window, 0) + nano
        return {window: plain(nano) for window, nano in sums.items() if nano}


class Double:
    """A double under way, and what it has."""

    def __init__(self, url: str, data_dir: Path, session: aiohttp.ClientSession) -> None:
        self.url, self._file, self._session = url, data_dir / "stripe.sqlite", session

    async def order(self, **order: Any) -> None:
        async with self._session.post(f"{self.url}/_double/faults", json=order) as answer:
            assert answer.status == 200, await answer.text()

    async def show(self) -> Any:
        async with self._session.get(f"{self.url}/_double") as answer:
            return await answer.json()

    async def switch(self, event_name: str, verb: str) -> None:
        headers = {"Authorization": "Bearer sk_test_x"}
        (row,) = self._read("SELECT id FROM meters WHERE event_name = ?", event_name)
        async with self._session.post(f"{self.url}/v1/billing/meters/{row[0]}/{verb}", headers=headers) as answer:
            assert answer.status == 200, await answer.text()

    async def make_meter(self, **form: str) -> None:
        headers = {"Authorization": "Bearer sk_test_x"}
        async with self._session.post(f"{self.url}/v1/billing/meters", data=form, headers=headers) as answer:
            assert answer.status == 200, await answer.text()

    def standing(self) -> dict[Window, str]:
        """The value of each window, as it was sent."""
        rows = self._read(
            "SELECT customer, event_name, start_s, value FROM standing JOIN meters ON meters.id = standing.meter_id"
        )
        return {Window(customer, name, start_s // 3_600): value for customer, name, start_s, value in rows}

    def identifiers(self) -> list[str]:
        """Every identifier that was ever taken, in that order."""
        return [row[0] for row in self._read("SELECT identifier FROM identifiers ORDER BY rowid")]

    def _read(self, query: str, *given: object) -> list[Any]:
        with sqlite3.connect(f"file:{self._file}?mode=ro", uri=True) as db:
            rows = db.execute(query, given).fetchall()
        db.close()
        return rows


@asynccontextmanager
async def double(data_dir: Path) -> AsyncIterator[Double]:
    """A double with faults to order, as long as the context lasts."""
    async with running(make_app(data_dir, system_clock, faults=True), 0) as url, aiohttp.ClientSession() as session:
        yield Double(url, data_dir, session)


class Sinks:
    """Sink processes of one test; none outlives it."""

    def __init__(self, bootstrap_servers: str, url: str, log_dir: Path) -> None:
        self._given: dict[str, Any] = {"bootstrap_servers": bootstrap_servers, "api_key": None, "url": url}
        self._given |= {"send_interval_s": 0.05, "request_timeout_s": 0.4}
        self._log_dir = log_dir
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, **more: Any) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.sinks.stripe.process", json.dumps(self._given | more)]
        with (self._log_dir / "sink.log").open("ab") as log:
            process = subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._started.append(process)
        return process

    def log(self) -> str:
        file = self._log_dir / "sink.log"
        return file.read_text(errors="replace") if file.exists() else ""

    def end(self) -> None:
        for process in self._started:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait()


@asynccontextmanager
async def sinks(bootstrap_servers: str, url: str, log_dir: Path) -> AsyncIterator[Sinks]:
    found = Sinks(bootstrap_servers, url, log_dir)
    try:
        yield found
    except BaseException as exc:
        exc.add_note(f"the sinks said:\n{found.log()[-6_000:]}")
        raise
    finally:
        found.end()


async def until(condition: Callable[[], object], what: str, deadline_s: float = 60.0) -> None:
    """Wait for a condition, looking 50 times a second."""
    deadline = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come true within {deadline_s} s"
        await asyncio.sleep(0.02)


async def ended(process: subprocess.Popen[bytes], deadline_s: float = 30.0) -> int:
    """The process's exit code, once it has ended."""
    await until(lambda: process.poll() is not None, "the process's end", deadline_s)
    return int(process.returncode)


async def records_on_log(bootstrap_servers: str) -> list[Intent | Outcome]:
    records: list[Intent | Outcome] = []
    async for batch in read_intents(bootstrap_servers):
        records += batch
    return records


async def told(bootstrap_servers: str, target: Target = Target.DOUBLE) -> Told:
    return reduce_intents(await records_on_log(bootstrap_servers), target)


async def until_told(
    bootstrap_servers: str,
    condition: Callable[[Told], object],
    target: Target = Target.DOUBLE,
    deadline_s: float = 60.0,
) -> Told:
    """What the target was told, once that fulfils the condition."""
    deadline = time.monotonic() + deadline_s
    while not condition(book := await told(bootstrap_servers, target)):
        assert time.monotonic() < deadline, f"the intents did not come to say what they should: {book}"
    return book


async def assert_traced(bootstrap_servers: str, found: Double) -> None:
    """Whatever Stripe took was on the log before, and was taken in the order in which it was decided."""
    intents = [record for record in await records_on_log(bootstrap_servers) if isinstance(record, Intent)]
    of = {intent.identifier: intent for intent in intents}
    taken = found.identifiers()
    assert [identifier for identifier in taken if identifier not in of] == [], "taken without an intent on the log"
    last: dict[Window, int] = {}
    for intent in (of[identifier] for identifier in taken):
        assert last.get(intent.window, -1) < intent.send_number, f"{intent} was taken after a newer one"
        last[intent.window] = intent.send_number


async def assert_exact(broker: str, fold: Fold, found: Double, deadline_s: float = 60.0) -> None:
    """Stripe ends with exactly the totals, what was accepted says the same, and nothing is pending."""
    expected = fold.expected()
    await until(lambda: found.standing() == expected, "equal totals", deadline_s)
    await until_told(
        broker,
        lambda book: not book.pending and {w: outcome.quantity for w, outcome in book.accepted.items()} == expected,
        deadline_s=deadline_s,
    )
    await assert_traced(broker, found)


async def assert_stops(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    assert await ended(process, 5) == 0


async def until_hanging(found: Double, count: int) -> None:
    """Wait until the double holds up that many requests."""
    deadline = time.monotonic() + 30
    while (await found.show())["hanging"] != count:
        assert time.monotonic() < deadline, f"{count} hanging requests did not come to be"
        await asyncio.sleep(0.02)

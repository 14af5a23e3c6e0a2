"""Seeded load from independent producers, through both doors, while things die; and what of it was sent.

Every event is either acknowledged in the end or the load fails: so the naive model knows exactly what must have been counted.
"""

from __future__ import annotations

import http.client
import json
import random
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

from confluent_kafka import KafkaError, Message, Producer

from tests.faults.naive import Model, Sent
from tests.faults.wire import BROKEN, Record, record_of, to_json
from tests.waiting import wait_until

__all__ = ["ORGS", "TOPIC", "Door", "Events", "KafkaDoor", "Load", "Rates"]

TOPIC: Final = "usage-events"
ORGS: Final = ("acme", "globex-2")
DEADLINE_S: Final = 120.0
_PAUSE_S: Final = 0.1
_BATCH_EVENTS: Final = 25
_HOURS_BACK: Final = 3
_REPEATED_SHARE: Final = 0.06
_FAILED_SHARE: Final = 0.03
_BROKEN_SHARE: Final = 0.04
_OTHERS_SHARE: Final = 0.04
_CUSTOMERS: Final = ("ann", "böb", "c/d", "e e", "~f", "日本", *(f"customer-{number}" for number in range(18)))
_QUANTITIES: Final = ("1", "1", "2", "0.5", "0.125", "10.000000001", "0", "007.50")
_METERS: Final = (None, None, None, "calls", "searches", "images", "audio_seconds", "premium_calls")
_WIDE_CUSTOMER: Final = "customer-0"
"""Uses more features than totals keep apart in a day."""


class Events:
    """An endless supply of good events, and of repeats of those that were given out before."""

    def __init__(self, seed: str, now_us: int, share_of: str) -> None:
        """`share_of` names the door: ids of two doors never meet by chance."""
        self._rng = random.Random(f"{seed}/{share_of}")
        self._again = random.Random(f"{seed}/{share_of}/again")
        self._now_us = now_us
        self._prefix = f"{share_of}-é-"
        self.repeated_share = _REPEATED_SHARE
        self._given: list[Sent] = []

    def next(self) -> Sent:
        if self._given and self._rng.random() < self.repeated_share:
            return self._rng.choice(self._given)
        self._given.append(self._new())
        return self._given[-1]

    def first(self) -> Sent:
        """One that was never given out, and never will be: to be broken, and so nothing else may be wrong with it."""
        return self._new()._replace(failed=False)

    @property
    def has_given(self) -> bool:
        return bool(self._given)

    def again(self) -> Sent:
        """One that was given out."""
        return self._again.choice(self._given)

    def _new(self) -> Sent:
        rng = self._rng
        customer, meter = rng.choice(_CUSTOMERS), rng.choice(_METERS)
        event = Sent(
            org=rng.choice(ORGS),
            customer=customer,
            event_id=f"{self._prefix}{rng.getrandbits(60):x}",
            occurred_at_us=self._now_us - rng.randrange(_HOURS_BACK * 3_600_000_000),
            quantity=rng.choice(_QUANTITIES),
            meter=meter,
            failed=rng.random() < _FAILED_SHARE,
            feature=f"feature-{rng.randrange(400 if customer == _WIDE_CUSTOMER else 3)}",
            model=rng.choice(("small", "large", None)),
        )
        return _with_tokens(event, rng) if meter is None else event


def _with_tokens(event: Sent, rng: random.Random) -> Sent:
    """A call of a language model, reported more or less fully."""
    read, written = rng.randrange(4_000), rng.randrange(1_000)
    match rng.randrange(4):
        case 0:
            return event
        case 1:
            return event._replace(input_tokens=read)
        case 2:
            return event._replace(input_tokens=read, output_tokens=written, cached_tokens=rng.randrange(read + 1))
        case _:
            return event._replace(input_tokens=0, output_tokens=written, reasoning_tokens=rng.randrange(written + 1))


class Rates(NamedTuple):
    """Events a second through each door."""

    kafka: float = 250.0
    http: float = 250.0


class Door:
    """One way in: sends until it is told to end, and keeps its own model of what it sent."""

    def __init__(self, rate: float) -> None:
        self.model = Model()
        self.sent_count = 0
        self._rate = rate
        self._ending = threading.Event()

    def end(self) -> None:
        self._ending.set()

    def run(self) -> None:
        """Returns when it was told to end and all that it sent is acknowledged."""
        while not self._ending.is_set():
            self.send_some(_BATCH_EVENTS)
            self._ending.wait(_BATCH_EVENTS / self._rate)
        self.finish()

    def send_some(self, count: int) -> None:
        raise NotImplementedError

    def finish(self) -> None:
        """Wait for what is still under way."""


class KafkaDoor(Door):
    """A plain producer: librdkafka, murmur2, its own Avro. Sends broken records too."""

    def __init__(self, bootstrap_servers: str, seed: str, now_us: int, rate: float, **settings: Any) -> None:
        super().__init__(rate)
        self.refusals: list[KafkaError] = []
        self.ends: dict[int, int] = {}
        """The highest offset that was acknowledged, by partition."""
        self.others: Events | None = None
        """Of another door: some of them are sent through this one too."""
        self._rng = random.Random(f"{seed}/broken")
        self.events = Events(seed, now_us, "kafka")
        self._all_kinds = sorted(BROKEN)
        self._kinds: Iterator[str] = iter(())
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap_servers,
                "partitioner": "murmur2_random",
                "enable.idempotence": True,
                "linger.ms": 5,
                "message.timeout.ms": round(DEADLINE_S * 1_000),
                "log_level": 0,
            }
            | settings
        )

    def mix(self, repeated_share: float, kinds: Sequence[str]) -> None:
        """How many of the events are repeats, and which kinds of broken records are sent, in turn."""
        self.events.repeated_share = repeated_share
        self._all_kinds = sorted(kinds)

    def send_some(self, count: int) -> None:
        for _ in range(count):
            chance = self._rng.random()
            if chance < _BROKEN_SHARE:
                self.send_broken(self._next_kind())
            elif chance < _BROKEN_SHARE + _OTHERS_SHARE and self.others is not None and self.others.has_given:
                self.send(self.others.again())
            else:
                self.send(self.events.next())
        self.sent_count += count
        self._producer.poll(0)

    def send(self, event: Sent) -> None:
        self.model.send(event)
        self.produce(record_of(event))

    def send_broken(self, kind: str) -> None:
        reason, make = BROKEN[kind]
        self.model.send_broken(reason)
        self.produce(make(self.events.first()))

    def send_conflict(self, event: Sent) -> None:
        """An id that was used before, with another quantity."""
        self.model.send_broken("id_conflict", bears_known_id=True)
        self.produce(record_of(event._replace(quantity="77")))

    def produce(self, record: Record, partition: int = -1) -> None:
        arguments = {} if partition < 0 else {"partition": partition}
        if record.timestamp_ms:
            arguments["timestamp"] = record.timestamp_ms
        self._producer.produce(TOPIC, record.value, record.key, on_delivery=self._note, **arguments)

    def finish(self) -> None:
        unsent = self._producer.flush(DEADLINE_S)
        assert unsent == 0, f"{unsent} records were not acknowledged in time"
        assert not self.refusals, f"the broker refused: {self.refusals[:3]}"

    def _next_kind(self) -> str:
        """Every kind in turn, each turn in another order."""
        kind = next(self._kinds, None)
        if kind is None:
            self._kinds = iter(self._rng.sample(self._all_kinds, len(self._all_kinds)))
            kind = next(self._kinds)
        return kind

    def _note(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self.refusals.append(error)
        else:
            partition = message.partition()
            self.ends[partition] = max(message.offset(), self.ends.get(partition, -1))


class HttpDoor(Door):
    """A client of `POST /v1/events` that sends a batch again, whole, until it is acknowledged."""

    def __init__(self, url: str, keys: dict[str, str], seed: str, now_us: int, rate: float) -> None:
        """`keys`: an API key for each org."""
        super().__init__(rate)
        self.repeated_count = 0
        """Batches that were sent more than once."""
        self._url = f"{url}/v1/events"
        self._keys = keys
        self.events = Events(seed, now_us, "http")

    def wait_open(self) -> None:
        """A node learns of new keys within a second; before, it knows nobody who bears them."""
        wait_until(lambda: 401 not in map(self._status_of_nothing, self._keys.values()), "the API knows the keys")

    def _status_of_nothing(self, key: str) -> int:
        request = urllib.request.Request(self._url, b"[]", {"Authorization": f"Bearer {key}"})
        try:
            with urllib.request.urlopen(request, timeout=DEADLINE_S) as response:
                return int(response.status)
        except urllib.error.HTTPError as exc:
            with exc:
                return exc.code

    def send_some(self, count: int) -> None:
        batch = [self.events.next() for _ in range(count)]
        for org in ORGS:
            self._send([event for event in batch if event.org == org], self._keys[org])
        self.sent_count += count

    def _send(self, events: list[Sent], key: str) -> None:
        """One item in each batch is broken: it is refused by the door, and never reaches the log."""
        if not events:
            return
        items = [to_json(event) for event in events]
        broken_at = len(items) // 2
        items.insert(broken_at, items[0] | {"quantity": "-1"})
        answer = self._post_until_taken(json.dumps({"events": items}).encode(), key)
        assert answer["accepted"] == len(events), answer
        assert [item["index"] for item in answer["rejected"]] == [broken_at], answer
        for event in events:
            self.model.send(event)

    def _post_until_taken(self, body: bytes, key: str) -> dict[str, Any]:
        answer: dict[str, Any] = {}
        attempts = 0

        def is_taken() -> bool:
            nonlocal answer, attempts
            attempts += 1
            found = self._post(body, key)
            answer = found or {}
            return found is not None

        wait_until(is_taken, "the API takes a batch", DEADLINE_S)
        self.repeated_count += attempts > 1
        return answer

    def _post(self, body: bytes, key: str) -> dict[str, Any] | None:
        """The answer; None where nobody knows whether the batch was taken."""
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        request = urllib.request.Request(self._url, body, headers)
        try:
            with urllib.request.urlopen(request, timeout=DEADLINE_S) as response:
                found: dict[str, Any] = json.load(response)
                return found
        except urllib.error.HTTPError as exc:
            with exc:
                _assert_retryable(exc.code, exc.read())
        except (urllib.error.URLError, http.client.HTTPException, OSError):
            pass  # the connection broke: before or after the batch was taken, only a repeat can tell
        self._ending.wait(_PAUSE_S)
        return None


def _assert_retryable(status: int, body: bytes) -> None:
    assert status >= 500, f"the API refused the whole batch: {status} {body[:500]!r}"


class Load:
    """Both doors at once."""

    def __init__(self, doors: list[Door]) -> None:
        self.doors = doors

    @property
    def sent_count(self) -> int:
        return sum(door.sent_count for door in self.doors)

    @property
    def model(self) -> Model:
        """What all doors have sent. Call it after the load has ended."""
        whole = Model()
        for door in self.doors:
            whole += door.model
        return whole

    @contextmanager
    def running(self) -> Iterator[None]:
        """Load comes while the body runs; at its end all that was sent is acknowledged."""
        with ThreadPoolExecutor(len(self.doors)) as threads:
            sending = [threads.submit(door.run) for door in self.doors]
            try:
                yield
            finally:
                for door in self.doors:
                    door.end()
            for done in sending:
                done.result()

    def wait_sent(self, count: int) -> None:
        """Wait until so many more have been sent; fails early when a door has failed."""
        target = self.sent_count + count
        wait_until(lambda: self.sent_count >= target, f"{count} more events are sent", DEADLINE_S)

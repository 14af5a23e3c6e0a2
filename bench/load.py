"""The load: usage events made before any clock runs, and what a right fold makes of them."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from confluent_kafka import Producer

from bench.shapes import Shape
from billing.catalog.types import Value
from billing.records import UsageEvent
from schemas.codec import encode

__all__ = ["Expected", "HeldLoad", "Load", "Spread", "make_load", "produce", "send_paced"]

_TIMEOUT_S = 60.0
_MODELS = ("gpt-5", "gpt-5-mini", "claude-sonnet-4-5", "gemini-2.5-pro")

Message = tuple[bytes, bytes]


class Spread(NamedTuple):
    """How the events lie over customers and time: what the rows of an epoch amortise over."""

    customers: int
    models: int
    """Models that each customer uses: with its one feature, the pairs that hour totals keep apart."""
    repeats: float
    """The part of the events that repeats an earlier one of the same load."""


@dataclass
class Expected:
    """What the ledger must say, found by adding up while the events are made."""

    counted: int = 0
    duplicates: int = 0
    units: Counter[str] = field(default_factory=Counter)
    """By meter."""

    def add(self, other: Expected) -> None:
        self.counted += other.counted
        self.duplicates += other.duplicates
        self.units.update(other.units)


class Load(NamedTuple):
    messages: list[Message]
    """Key and value, in the order they are sent."""
    expected: Expected


def make_load(rng: random.Random, shape: Shape, count: int, spread: Spread, now_ms: int) -> Load:
    """`count` events of the last ten minutes before `now_ms`."""
    assert 1 <= spread.models <= len(_MODELS), f"a customer uses 1 to {len(_MODELS)} models"
    expected = Expected()
    messages: list[Message] = []
    for _ in range(count):
        if messages and rng.random() < spread.repeats:
            messages.append(rng.choice(messages))
            expected.duplicates += 1
            continue
        event = _event(rng, shape, spread, now_ms)
        messages.append((f"{shape.name}/{event.customer_id}".encode(), encode(event)))
        expected.counted += 1
        for meter in shape.meters:
            expected.units[meter.slug] += _units(meter.value, event)
    return Load(messages, expected)


def _event(rng: random.Random, shape: Shape, spread: Spread, now_ms: int) -> UsageEvent:
    customer = rng.randrange(spread.customers)
    input_tokens, output_tokens = rng.randrange(20, 8_000), rng.randrange(1, 2_000)
    return UsageEvent(
        event_id=f"{rng.getrandbits(128):032x}",
        occurred_at_us=(now_ms - rng.randrange(600_000)) * 1_000,
        customer_id=f"customer-{customer:06d}",
        event_type=shape.event_type,
        feature="chat",
        model=_MODELS[(customer + rng.randrange(spread.models)) % len(_MODELS)],
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cached_tokens=rng.randrange(input_tokens) if shape.has_parts else None,
        reasoning_tokens=rng.randrange(output_tokens) if shape.has_parts else None,
    )


def _units(value: Value, event: UsageEvent) -> int:
    """What an event is worth on a meter, without asking the code that is measured."""
    return {
        Value.QUANTITY: 1,
        Value.TOTAL_TOKENS: (event.input_tokens or 0) + (event.output_tokens or 0),
        Value.INPUT_TOKENS: event.input_tokens or 0,
        Value.OUTPUT_TOKENS: event.output_tokens or 0,
        Value.CACHED_TOKENS: event.cached_tokens or 0,
        Value.REASONING_TOKENS: event.reasoning_tokens or 0,
    }[value]


def produce(bootstrap_servers: str, topic: str, messages: Sequence[Message]) -> None:
    """Send and wait until the broker has all of them."""
    _send(_producer(bootstrap_servers), topic, messages)


def send_paced(bootstrap_servers: str, topic: str, messages: Sequence[Message], rate: int) -> None:
    """Send `rate` messages a second, in steps of a hundredth; returns when the broker has all of them."""
    producer, began_s, step = _producer(bootstrap_servers), time.monotonic(), max(1, rate // 100)
    for start in range(0, len(messages), step):
        time.sleep(max(0.0, began_s + start / rate - time.monotonic()))
        for key, value in messages[start : start + step]:
            producer.produce(topic, value, key)
        producer.poll(0)
    unsent = producer.flush(_TIMEOUT_S)
    assert unsent == 0, f"{unsent} records were not acknowledged in time"


class HeldLoad:
    """A load that lies on the log and that no reader of committed records sees before `release`.

    One open transaction: so producing, which would share the cores with what is measured, is over when the clock starts.
    """

    def __init__(self, bootstrap_servers: str, topic: str, messages: Sequence[Message]) -> None:
        self._producer = _producer(bootstrap_servers, {"transactional.id": "bench-load"})
        self._producer.init_transactions(_TIMEOUT_S)
        self._producer.begin_transaction()
        _send(self._producer, topic, messages)

    def release(self) -> None:
        """Let the readers have it; returns when the broker has taken the decision."""
        self._producer.commit_transaction(_TIMEOUT_S)


def _producer(bootstrap_servers: str, more: dict[str, str] | None = None) -> Producer:
    settings = {
        "bootstrap.servers": bootstrap_servers,
        "partitioner": "murmur2_random",
        "acks": "all",
        "enable.idempotence": True,
        "linger.ms": 10,
        "log_level": 0,
    }
    return Producer(settings | (more or {}))


def _send(producer: Producer, topic: str, messages: Sequence[Message]) -> None:
    refused: list[object] = []

    def note(error: object, _message: object) -> None:
        if error is not None:
            refused.append(error)

    for key, value in messages:
        while True:
            try:
                producer.produce(topic, value, key, on_delivery=note)
                break
            except BufferError:
                producer.poll(0.05)
        producer.poll(0)
    left = producer.flush(_TIMEOUT_S)
    if left or refused:
        message = f"the broker did not take the load: {left} unsent, {refused[:1]}"
        raise RuntimeError(message)

"""Usage as it comes: events of many kinds, their repeats, refusals of each sort, ticks; told to the fold and to the model."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import msgspec

from billing.records import UsageEvent
from tests.sinks.clickhouse.model import Model
from tests.support.fold_log import FoldLog

__all__ = ["START_MS", "Usage"]

HOUR_MS = 3_600_000
START_MS = 1_769_886_000_000
"""2026-01-31 19:00 UTC: days end, and a month does, while usage comes."""
ORGS = ("acme", "globex-2")
CUSTOMERS = ("c-1", "c-2", "müller/ß", "c-4", "c-5")


@dataclass
class Usage:
    """Adds records one by one. `step_ms` passes between two of them, on average."""

    rng: random.Random
    step_ms: int = 30_000
    partition_count: int = 2
    now_ms: int = START_MS
    number: int = 0
    sent: list[tuple[str, UsageEvent]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.log = FoldLog(START_MS, self.partition_count)
        self.model = Model()

    def add(self, count: int) -> None:
        """`count` more records."""
        kinds = [self.event, self.repeat, self.failed, self.conflict, self.unknown_meter, self.bad_quantity]
        kinds += [self.garbage, self.misrouted, self.too_old, self.tick, self.hole]
        for kind in self.rng.choices(kinds, weights=[60, 12, 5, 3, 3, 3, 3, 3, 3, 3, 2], k=count):
            self.now_ms += self.rng.randrange(2 * self.step_ms)
            kind()

    def event(self) -> None:
        org, event = self.rng.choice(ORGS), self.fresh()
        self.model.counted(org, event, self.log.add_event(org, event, self.now_ms))
        self.sent.append((org, event))

    def repeat(self) -> None:
        if self.sent:
            org, event = self.rng.choice(self.sent)
            self.model.duplicate(org, event, self.log.add_event(org, event, self.now_ms))

    def failed(self) -> None:
        org, event = self.rng.choice(ORGS), msgspec.structs.replace(self.fresh(), status="failed")
        self.model.failed(org, event, self.log.add_event(org, event, self.now_ms))
        self.sent.append((org, event))

    def conflict(self) -> None:
        if self.sent:
            org, event = self.rng.choice(self.sent)
            other = msgspec.structs.replace(event, feature="another feature")
            self._reject(org, other, "id_conflict", "event_id")

    def unknown_meter(self) -> None:
        self._reject(
            "acme", msgspec.structs.replace(self.fresh(), meter="nonsense", event_type=None), "unknown_meter", "meter"
        )

    def bad_quantity(self) -> None:
        event = msgspec.structs.replace(self.fresh(), quantity=self.rng.choice(["-1", "NaN", "9" * 40, ""]))
        self._reject("acme", event, "invalid_field", "quantity")

    def too_old(self) -> None:
        event = msgspec.structs.replace(self.fresh(), occurred_at_us=self.rng.choice([0, 253_402_300_799_000_000]))
        self._reject("acme", event, "too_old" if not event.occurred_at_us else "in_future", "occurred_at")

    def garbage(self) -> None:
        value = self.rng.choice([None, b"", b"\xff\x00", self.rng.randbytes(40)])
        record = self.log.add(self.rng.randrange(self.partition_count), b"acme/c-1", value, self.now_ms)
        self.model.rejected(record, "", "", "unreadable", "")

    def misrouted(self) -> None:
        event = self.fresh()
        wrong = (self.log.home("acme", event.customer_id) + 1) % self.partition_count
        record = self.log.add_event("acme", event, self.now_ms, partition=wrong)
        self.model.rejected(record, "acme", event.customer_id, "misrouted", "key")

    def tick(self) -> None:
        self.log.tick(self.now_ms)

    def hole(self) -> None:
        self.log.skip(self.rng.randrange(self.partition_count), self.rng.randrange(1, 4))

    def fresh(self) -> UsageEvent:
        """An event that nobody sent before, at most some hours old."""
        rng = self.rng
        self.number += 1
        occurred_at_us = (self.now_ms - rng.choice([0, 1, 10, 90]) * 60_000) * 1_000 + rng.randrange(1_000)
        named = rng.random() < 0.4
        return UsageEvent(
            event_id=f"evt-{self.number}" if rng.random() < 0.9 else f"Ereignis-№{self.number}",
            occurred_at_us=occurred_at_us,
            customer_id=rng.choice(CUSTOMERS),
            meter=rng.choice(["calls", "images", "audio_seconds"]) if named else None,
            event_type=None if named else "llm.call",
            quantity=rng.choice(["1", "0", "2.50", "0.000000001", "999999999999999999.999999999", "0012"]),
            feature=rng.choice([None, "chat", "Übersetzung"]),
            model=rng.choice([None, "gpt-5", "claude"]),
            tags=rng.choice([(), ("a",), ("a", "b,'\"\\")]),
            properties=rng.choice([{}, {"k": "v"}, {"zeile": "1\\t'2'", "ü": ""}]),
            input_tokens=rng.choice([None, 0, 1_234]),
            output_tokens=rng.choice([None, 56]),
        )

    def _reject(self, org: str, event: UsageEvent, reason: str, field_name: str) -> None:
        record = self.log.add_event(org, event, self.now_ms)
        self.model.rejected(record, org, event.customer_id, reason, field_name)

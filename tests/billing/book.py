"""A naive book of the same usage, written from the rules' prose: dictionaries, lists, decimals, and no care for speed.

It shares no code with the fold but the records themselves. What it knows of the test's catalog is written out once more.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from hashlib import sha256
from typing import Any, NamedTuple

from billing.records import UsageEvent

__all__ = ["Book", "Line"]

DAY_MS = 24 * 60 * 60 * 1_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Told = tuple[Any, ...]
"""What came of a record, in plain values."""

MAPPED: dict[str, dict[str, Callable[[UsageEvent], Decimal | None]]] = {
    "llm.call": {
        "calls": lambda e: Decimal(e.quantity),
        "tokens": lambda e: tokens(e.input_tokens, e.output_tokens),
        "input_tokens": lambda e: tokens(e.input_tokens),
        "output_tokens": lambda e: tokens(e.output_tokens),
        "cached_tokens": lambda e: tokens(e.cached_tokens),
        "reasoning_tokens": lambda e: tokens(e.reasoning_tokens),
    },
    "report.generated": {"reports": lambda e: Decimal(e.quantity)},
    "draft.generated": {"drafts": lambda e: Decimal(e.quantity)},
    "sip": {"sips": lambda e: tokens(e.output_tokens)},
}
METERS = {
    "calls", "premium_calls", "tokens", "premium_tokens", "input_tokens", "output_tokens", "cached_tokens",
    "reasoning_tokens", "searches", "audio", "audio_seconds", "images", "custom1", "custom2", "reports", "drafts", "sips",
}  # fmt: skip
NOT_ENABLED = {"custom2", "drafts"}
STRIPE_METERS = {"calls": "calls", "tokens": "llm_usage", "output_tokens": "llm_usage"}


def tokens(*counts: int | None) -> Decimal | None:
    told = [count for count in counts if count is not None]
    return Decimal(sum(told)) if told else None


class Line(NamedTuple):
    """One event under a total."""

    quantity: Decimal
    digest: int


class Book:
    def __init__(self) -> None:
        self.customers: set[str] = set()
        self.met: dict[tuple[str, str], tuple[int, int, Any]] = {}
        """By account and id: when it was accepted, at which offset, and what it said."""
        self.totals: dict[tuple[Any, ...], list[Line]] = defaultdict(list)
        """By account, billing period, meter, feature, model, hour and booking day."""
        self.stripe: dict[tuple[Any, ...], list[Decimal]] = defaultdict(list)
        """By account, Stripe customer, Stripe meter and hour."""
        self.quotas: dict[tuple[str, str], tuple[datetime, list[Decimal]]] = {}
        self.pairs: dict[tuple[str, int], set[tuple[str, str]]] = defaultdict(set)
        self.offsets: dict[tuple[Any, ...], int] = {}
        """Of each row, the last offset that is in it."""
        self.ordered: dict[str, tuple[int, bool]] = {}
        """By account: when the order that holds was issued, and whether it sets the account aside."""
        self.log_ms = 0

    def take(self, offset: int, log_ms: int, account: str, event: UsageEvent, flaw: str | None) -> list[Told]:
        """A usage event whose key is right. `flaw`: why its fields break a rule, None when they do not."""
        if self.is_aside(account):
            return [("rejected", "quarantined", None)]
        if flaw:
            return [("rejected", "invalid_field", flaw)]
        if reason := self.untimely(event, log_ms):
            return [("rejected", reason, "occurred_at")]
        if met := self.met_before(account, event, log_ms):
            return [met]
        counts = self.measure(event)
        if not counts:
            return [("rejected", "unknown_meter", "meter" if event.meter else "event_type")]
        if NOT_ENABLED & {meter for meter, _ in counts}:
            return [("rejected", "meter_not_enabled", "meter")]
        self.met[account, event.event_id] = (log_ms, offset, self.content(event))
        if event.status == "failed":
            return [("rejected", "failed_call", "status")]
        return self.count(offset, log_ms, account, event, counts)

    def untimely(self, event: UsageEvent, log_ms: int) -> str | None:
        occurred = EPOCH + timedelta(milliseconds=event.occurred_at_us // 1_000)
        logged = EPOCH + timedelta(milliseconds=log_ms)
        if occurred > logged + timedelta(minutes=5):
            return "in_future"
        return "too_old" if occurred < logged - timedelta(days=34) else None

    def met_before(self, account: str, event: UsageEvent, log_ms: int) -> Told | None:
        if (account, event.event_id) not in self.met:
            return None
        accepted_ms, offset, content = self.met[account, event.event_id]
        if log_ms >= accepted_ms + 35 * DAY_MS:
            return None
        if content == self.content(event):
            return ("duplicate", account, event.event_id, offset)
        return ("rejected", "id_conflict", "event_id")

    @staticmethod
    def content(event: UsageEvent) -> Any:
        fields = {name: getattr(event, name) for name in event.__struct_fields__}
        return {**fields, "quantity": Decimal(event.quantity)}

    @staticmethod
    def measure(event: UsageEvent) -> list[tuple[str, Decimal]]:
        if event.meter is not None:
            return [(event.meter, Decimal(event.quantity))] if event.meter in METERS else []
        found = [(meter, quantity(event)) for meter, quantity in MAPPED.get(event.event_type or "", {}).items()]
        return [(meter, count) for meter, count in found if count is not None]

    def count(
        self, offset: int, log_ms: int, account: str, event: UsageEvent, counts: list[tuple[str, Decimal]]
    ) -> list[Told]:
        told: list[Told] = []
        if account not in self.customers:
            self.customers.add(account)
            told.append(("opened", account, "team", 3, account))
        occurred = EPOCH + timedelta(microseconds=event.occurred_at_us)
        hour = (occurred - EPOCH) // timedelta(hours=1)
        billing = occurred.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        day = log_ms // DAY_MS
        feature, model, capped = self.label(account, day, event.feature or "", event.model or "")
        for meter, count in counts:
            self.add_quota(account, meter, occurred, count)
            row = (account, billing, meter, feature, model, hour, day)
            self.totals[row].append(Line(count, digest(event.event_id, meter, count, event.occurred_at_us)))
            self.offsets[row] = offset
            if meter in STRIPE_METERS:
                stripe_row = (account, account, STRIPE_METERS[meter], hour)  # not linked to a customer of Stripe's
                self.stripe[stripe_row].append(count)
                self.offsets[stripe_row] = offset
        entries = [(meter, count, STRIPE_METERS.get(meter)) for meter, count in counts]
        told.append(("counted", account, event.event_id, feature, model, hour, day, billing, account, entries))
        return [*told, ("capped", account, day)] if capped else told

    def label(self, account: str, day: int, feature: str, model: str) -> tuple[str, str, bool]:
        """The pair it is totalled under, and whether it is the day's first past the 200 that are kept apart."""
        pairs = self.pairs[account, day]
        apart = [pair for pair in pairs if pair != ("~other", "~other")]
        if (feature, model) in pairs or len(apart) < 200:
            pairs.add((feature, model))
            return feature, model, False
        first = ("~other", "~other") not in pairs
        pairs.add(("~other", "~other"))
        return "~other", "~other", first

    def add_quota(self, account: str, meter: str, occurred: datetime, count: Decimal) -> None:
        """Only the newest day is kept; usage of a day before it weighs on no quota."""
        day = occurred.replace(hour=0, minute=0, second=0, microsecond=0)
        current, used = self.quotas.get((account, meter), (day, []))
        if day == current:
            self.quotas[account, meter] = (day, [*used, count])
        elif day > current:
            self.quotas[account, meter] = (day, [count])

    def is_aside(self, account: str) -> bool:
        return self.ordered.get(account, (0, False))[1]

    def order(self, account: str, issued_at_ms: int, *, aside: bool) -> Told:
        """An order about an account, at its own place: only one that is younger than the last does anything."""
        kind = "quarantine_account" if aside else "release_account"
        last_ms, _ = self.ordered.get(account, (-1, False))
        if issued_at_ms == last_ms:
            return ("repeated", kind)
        if issued_at_ms < last_ms:
            return ("refused", "stale")
        self.ordered[account] = (issued_at_ms, aside)
        return ("applied", kind)

    def tick(self, log_ms: int) -> list[Told]:
        """Closes what is due."""
        due = self.due(log_ms)
        for key in self.due_pairs(log_ms):
            del self.pairs[key]
        return [("tick", len(due) > 500), *[self.close(kind, row) for _, kind, _, row in due[:500]]]

    def due_pairs(self, log_ms: int) -> list[tuple[str, int]]:
        """Pairs of days that are over."""
        now = EPOCH + timedelta(milliseconds=log_ms)
        return [key for key in self.pairs if EPOCH + timedelta(days=key[1] + 1) <= now]

    def due(self, log_ms: int) -> list[tuple[datetime, str, tuple[Any, ...], tuple[Any, ...]]]:
        """In order: totals when their booking day is over, Stripe's hours 35 days after their end."""
        now = EPOCH + timedelta(milliseconds=log_ms)
        due: list[tuple[datetime, str, tuple[Any, ...], tuple[Any, ...]]] = []
        for row in [row for row in self.totals if not self.is_aside(row[0])]:
            account, billing, meter, feature, model, hour, day = row
            closes = EPOCH + timedelta(days=day + 1)
            order = (day, account.encode(), billing, meter.encode(), feature.encode(), model.encode(), hour)
            due.append((closes, "a total", order, row))
        for row in [row for row in self.stripe if not self.is_aside(row[0])]:
            account, customer, stripe_meter, hour = row
            closes = EPOCH + timedelta(hours=hour + 1, days=35)
            due.append((closes, "stripe", (hour, account.encode(), customer.encode(), stripe_meter.encode()), row))
        return sorted(item for item in due if item[0] <= now)

    def close(self, kind: str, row: tuple[Any, ...]) -> Told:
        offset = self.offsets.pop(row)
        if kind == "stripe":
            return ("stripe hour closed", *row, sum(self.stripe.pop(row)), offset)
        lines = self.totals.pop(row)
        return ("total closed", *row, *self.summed(lines), offset)

    @staticmethod
    def summed(lines: list[Line]) -> tuple[Decimal, int, bytes]:
        """A total's quantity, count and digest."""
        quantity = sum((line.quantity for line in lines), Decimal(0))
        digests = sum(line.digest for line in lines)
        return quantity, len(lines), (digests % 2**128).to_bytes(16, "little")


def digest(event_id: str, meter: str, quantity: Decimal, occurred_at_us: int) -> int:
    """An event's digest on a meter."""
    number = f"{quantity:f}"
    if "." in number:
        number = number.rstrip("0").rstrip(".")
    words = [word.encode() for word in (event_id, meter, number, str(occurred_at_us))]
    spelled = b"".join(str(len(word)).encode() + b":" + word for word in words)
    return int.from_bytes(sha256(spelled).digest()[:16], "little")

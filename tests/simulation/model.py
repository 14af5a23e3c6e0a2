"""What the fold should make of a partition's records, reckoned by the plainest means; imports nothing of the product.

Written from the documents. A record is known to it by the note that the load put beside it, never by its bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from hashlib import sha256
from typing import Any, NamedTuple

__all__ = ["Event", "Fact", "Flawed", "Genesis", "Model", "Order", "Poison", "Stuck", "Tick", "Unsigned"]

DAY_MS = 86_400_000
HOUR_US = 3_600_000_000
AT_STRIPE = {"calls", "tokens", "searches", "images", "audio_seconds"}
METERS = {"calls", "tokens", "searches", "images", "audio_seconds", "input_tokens", "output_tokens", "premium_calls"}
PLAN = ["default", 1]

Fact = tuple[Any, ...]
"""A fact's kind and its fields, without messages."""


@dataclass(frozen=True, slots=True)
class Event:
    """A usage event whose fields are in order; its time, meter, route and id may still be refused."""

    account: str
    event_id: str
    occurred_at_us: int
    home: int
    """The partition that its key belongs on."""
    meter: str | None = None
    quantity: str = "1"
    input_tokens: int | None = None
    output_tokens: int | None = None
    failed: bool = False
    feature: str = ""
    model: str = ""

    def __str__(self) -> str:
        what = self.meter or f"llm.call {self.input_tokens}+{self.output_tokens} tokens"
        failed = ", failed" if self.failed else ""
        occurred = datetime.fromtimestamp(self.occurred_at_us / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S")
        return f"event {self.event_id} of {self.account}, {self.quantity} {what}{failed}, of {occurred}"


@dataclass(frozen=True, slots=True)
class Flawed:
    """A record that is refused whatever came before it."""

    reason: str
    field: str | None
    account: str | None = None
    event_id: str | None = None
    under: str | None = None
    """The account that its key names."""

    def __str__(self) -> str:
        return f"a record that is {self.reason}" + (f" ({self.field})" if self.field else "")


@dataclass(frozen=True, slots=True)
class Unsigned:
    """A command that nobody signed."""

    kind: str

    def __str__(self) -> str:
        return f"an unsigned command {self.kind}"


@dataclass(frozen=True, slots=True)
class Poison:
    """An event on which the rules raise. Its id is its own."""

    event: Event

    def __str__(self) -> str:
        return f"an event that the rules raise on: {self.event}"


@dataclass(frozen=True, slots=True)
class Order:
    """What an operator orders, or somebody who is none."""

    kind: str
    number: int
    """When it was issued, ms."""
    partition: int = 0
    offset: int = -1
    """The record it is about; -1: none."""
    last_offset: int = -1
    account: str | None = None
    home: int = 0
    """The partition of `account`."""
    forged: bool = False

    def __str__(self) -> str:
        about = f" about {self.account}" if self.account else ""
        about += f" for offset {self.offset}" if self.offset >= 0 else ""
        return f"{'a forged' if self.forged else 'an'} order {self.kind}{about}"


@dataclass(frozen=True, slots=True)
class Genesis:
    deployment_id: str
    incarnation: int
    partition_count: int
    operator_public_key: bytes

    def __str__(self) -> str:
        return f"a genesis of deployment {self.deployment_id}"


@dataclass(frozen=True, slots=True)
class Tick:
    def __str__(self) -> str:
        return "a tick"


Note = Event | Flawed | Poison | Unsigned | Order | Genesis | Tick
Later = Sequence[tuple[int, object]]
"""Offsets and notes of what lies further on."""


class Stuck(Exception):
    """The partition stands before a record, and nobody has ordered otherwise."""


class Line(NamedTuple):
    """One event under a total."""

    quantity: Decimal
    digest: int


class Met(NamedTuple):
    accepted_ms: int
    offset: int
    content: Event


@dataclass
class Model:
    """One partition, from its genesis on."""

    partition: int
    log_ms: int = 0
    genesis: Genesis | None = None
    met: dict[tuple[str, str], Met] = field(default_factory=dict)
    accounts: dict[str, int] = field(default_factory=dict)
    """The last record that changed each account."""
    snapshot_s: int = 0
    """The month whose snapshot was written last, or that of the genesis."""
    used: dict[tuple[str, str], tuple[int, Decimal]] = field(default_factory=dict)
    """By account and meter: the month's start and what it used."""
    totals: dict[tuple[Any, ...], list[Line]] = field(default_factory=dict)
    stripe: dict[tuple[Any, ...], Decimal] = field(default_factory=dict)
    versions: dict[tuple[Any, ...], int] = field(default_factory=dict)
    """The last record in each total and each of Stripe's hours."""
    published: dict[tuple[Any, ...], tuple[Any, ...]] = field(default_factory=dict)
    """What readers of the totals know last, closed rows too."""
    dead: list[tuple[int, str]] = field(default_factory=list)
    """Offset and reason of every refused record, failed calls aside."""

    aside: dict[str, tuple[int, bool]] = field(default_factory=dict)
    """The last order about each account: its number, and whether it sets the account aside."""
    honoured: set[int] = field(default_factory=set)
    still: list[tuple[int, int]] = field(default_factory=list)

    def decide(
        self, offset: int, append_ms: int, note: object, later: Later = (), honoured_at: int | None = None
    ) -> list[Fact]:
        """The record's facts, and their effects. Raises Stuck where no later order lets it through.

        `honoured_at`: the order that the ledger says has let the record through. Where only a clock decides whether the
        partition stood there, either is right; that everybody took the same is told by the answers.
        """
        is_still = any(first <= offset <= last for first, last in self.still)
        jumps = self.genesis is not None and not is_still and append_ms - self.log_ms > 40 * DAY_MS
        crashes = self._crashes(note)
        if honoured_at is None and not jumps and not crashes:
            self.log_ms = self.log_ms if is_still else max(self.log_ms, append_ms)
            return self._decide(offset, note)
        for order_offset, order in later:
            is_meant = jumps or crashes or order_offset == honoured_at
            if (
                is_meant
                and isinstance(order, Order)
                and self._lets_through(order, order_offset, offset, note, jumps=jumps)
            ):
                return self._let_through(order, order_offset, offset, append_ms, note, is_still=is_still)
        message = f"nothing lets {offset} ({note}) through"
        raise Stuck(message)

    def _crashes(self, note: object) -> bool:
        return isinstance(note, Poison) and not self._is_aside(note.event.account)

    def _is_aside(self, account: str | None) -> bool:
        return account is not None and self.aside.get(account, (0, False))[1]

    def _lets_through(self, order: Order, at: int, offset: int, note: object, *, jumps: bool) -> bool:
        if order.forged or order.partition != self.partition or at in self.honoured:
            return False
        if not (order.offset == offset or (order.kind == "time" and order.offset <= offset <= order.last_offset)):
            return False
        if order.kind == "quarantine_record":
            return True
        if order.kind == "quarantine_account":
            is_newer = order.number > self.aside.get(str(order.account), (-1, False))[0]
            is_theirs = isinstance(note, Poison) and note.event.account == order.account
            return is_newer and is_theirs and not jumps and order.home == self.partition
        if jumps and order.kind not in ("resume", "time"):
            return False
        return not self._crashes(note)

    def _let_through(
        self, order: Order, at: int, offset: int, append_ms: int, note: object, *, is_still: bool
    ) -> list[Fact]:
        self.honoured.add(at)
        fact = ("order honoured", at, *self._apply(order))
        if order.kind not in ("time", "quarantine_record") and not is_still:
            self.log_ms = max(self.log_ms, append_ms)
        return [
            fact,
            *(self._set_aside(offset, note) if order.kind == "quarantine_record" else self._decide(offset, note)),
        ]

    def _apply(self, order: Order) -> Fact:
        """What an order changes, as the ledger tells it: kind, account, number, first and last offset."""
        if order.account is not None:
            self.aside[order.account] = order.number, order.kind == "quarantine_account"
            return (order.kind, order.account, order.number, None, None)
        if order.kind == "time":
            self.still.append((order.offset, order.last_offset))
            return (order.kind, None, None, order.offset, order.last_offset)
        return (order.kind, None, None, None, None)

    def _set_aside(self, offset: int, note: object) -> list[Fact]:
        match note:
            case Tick():
                return []
            case Genesis():
                return [("genesis refused",)]
            case Unsigned() | Order():
                self.dead.append((offset, "quarantined"))
                return [("command refused", "quarantined", note.kind)]
            case _:
                return [self._refused(offset, "quarantined", None, None, None)]

    def _decide(self, offset: int, note: object) -> list[Fact]:
        match note:
            case Genesis():
                return [self._begin(note)]
            case Tick():
                return self._tick()
            case Unsigned():
                self.dead.append((offset, "unsigned"))
                return [("command refused", "unsigned", note.kind)]
            case Order():
                return [self._order(offset, note)]
            case Flawed():
                if note.reason == "unreadable" and self._is_aside(note.under):
                    return [self._refused(offset, "quarantined", None, note.under, None)]
                if note.field != "key" and self._is_aside(note.under):
                    return [self._refused(offset, "quarantined", None, note.under, note.event_id or "other")]
                return [self._refused(offset, note.reason, note.field, note.account, note.event_id)]
            case Event():
                return self._event(offset, note)
            case Poison():
                return self._event(offset, note.event)
        message = f"the load does not say what the record at {offset} is"
        raise AssertionError(message)

    def _order(self, offset: int, order: Order) -> Fact:
        """An order at its own place."""
        reason = None
        if order.forged:
            reason = "unsigned"
        elif offset in self.honoured:
            return ("order repeated", order.kind)
        elif order.account is not None:
            number, _ = self.aside.get(order.account, (-1, False))
            if order.number == number:
                return ("order repeated", order.kind)
            reason = "misrouted" if order.home != self.partition else "stale" if order.number < number else None
        elif order.partition != self.partition:
            reason = "misrouted"
        elif order.kind != "time" or order.last_offset <= offset:
            reason = "invalid_field"
        if reason is None:
            return ("order applied", *self._apply(order))
        self.dead.append((offset, reason))
        return ("command refused", reason, order.kind)

    def _begin(self, note: Genesis) -> Fact:
        if self.genesis is not None:
            return ("genesis refused",)
        self.genesis, self.snapshot_s = note, month_of(self.log_ms // 1_000)
        return ("genesis", note.deployment_id, note.incarnation, note.partition_count, note.operator_public_key)

    def _refused(
        self, offset: int, reason: str, at_fault: str | None, account: str | None, event_id: str | None
    ) -> Fact:
        self.dead.append((offset, reason))
        return ("rejected", reason, at_fault, account, event_id)

    def _event(self, offset: int, event: Event) -> list[Fact]:
        account, event_id = event.account, event.event_id
        if self._is_aside(account):
            return [self._refused(offset, "quarantined", None, account, event_id)]
        if event.home != self.partition:
            return [self._refused(offset, "misrouted", "key", account, None)]
        ahead_ms = event.occurred_at_us // 1_000 - self.log_ms
        if ahead_ms > 5 * 60_000 or ahead_ms < -34 * DAY_MS:
            return [self._refused(offset, "in_future" if ahead_ms > 0 else "too_old", "occurred_at", account, event_id)]
        met = self.met.get((account, event_id))
        if met is not None and self.log_ms < met.accepted_ms + 35 * DAY_MS:
            if met.content == event:
                return [("duplicate", account, event_id, met.offset)]
            return [self._refused(offset, "id_conflict", "event_id", account, event_id)]
        if event.meter is not None and event.meter not in METERS:
            return [self._refused(offset, "unknown_meter", "meter", account, event_id)]
        self.met[account, event_id] = Met(self.log_ms, offset, event)
        if event.failed:
            return [("rejected", "failed_call", "status", account, event_id)]
        return self._count(offset, event)

    def _count(self, offset: int, event: Event) -> list[Fact]:
        account, occurred_s = event.account, event.occurred_at_us // 1_000_000
        facts: list[Fact] = [] if account in self.accounts else [("opened", account, PLAN, account)]
        self.accounts[account] = offset
        hour, day, month_s = event.occurred_at_us // HOUR_US, self.log_ms // DAY_MS, month_of(occurred_s)
        entries = []
        for meter, quantity in measured(event):
            self._use(account, meter, month_s, quantity)
            key: tuple[Any, ...] = ("total", day, account, month_s, meter, event.feature, event.model, hour)
            lines = self.totals.setdefault(key, [])
            lines.append(Line(quantity, digest(event.event_id, meter, quantity, event.occurred_at_us)))
            self._publish(key, offset, *summed(lines))
            if meter in AT_STRIPE:
                key = ("stripe", hour, account, account, meter)
                self.stripe[key] = self.stripe.get(key, Decimal(0)) + quantity
                self._publish(key, offset, plain(self.stripe[key]))
            entries.append([meter, plain(quantity), meter if meter in AT_STRIPE else None])
        counted = (
            account,
            event.event_id,
            event.occurred_at_us,
            event.feature,
            event.model,
            hour,
            day,
            month_s,
            account,
        )
        return [*facts, ("counted", *counted, entries)]

    def _use(self, account: str, meter: str, month_s: int, quantity: Decimal) -> None:
        start_s, used = self.used.get((account, meter), (month_s, Decimal(0)))
        if month_s > start_s:
            start_s, used = month_s, Decimal(0)
        if month_s == start_s:
            self.used[account, meter] = start_s, used + quantity

    def _publish(self, key: tuple[Any, ...], offset: int, *value: Any) -> None:
        self.versions[key] = offset
        self.published[key] = (*value, offset)

    def _tick(self) -> list[Fact]:
        """Closes totals when their booking day is over, and Stripe's hours 35 days after their end."""
        due: list[tuple[int, int, tuple[Any, ...], tuple[Any, ...]]] = []
        for key in self.totals:
            _, day, account, month_s, meter, feature, model, hour = key
            if self._is_aside(account):
                continue
            order: tuple[Any, ...] = (
                day,
                account.encode(),
                month_s,
                meter.encode(),
                feature.encode(),
                model.encode(),
                hour,
            )
            due.append(((day + 1) * DAY_MS, 0, order, key))
        for key in self.stripe:
            _, hour, account, customer, meter = key
            if self._is_aside(account):
                continue
            order = (hour, account.encode(), customer.encode(), meter.encode())
            due.append(((hour + 1) * 3_600_000 + 35 * DAY_MS, 1, order, key))
        due = sorted(item for item in due if item[0] <= self.log_ms // 1_000 * 1_000)
        month_s, snapshot = month_of(self.log_ms // 1_000), self._snapshot()
        room = 500 - max(len(snapshot) - 2, 0)
        early = [item for item in due if snapshot and item[0] <= month_s * 1_000]
        assert len(early) <= room, "histories have few accounts: a month's snapshot is written by one tick"
        closing = [self._close(key) for _, _, _, key in due[:room]]
        return [("tick", len(due) > room), *closing[: len(early)], *snapshot, *closing[len(early) :]]

    def _snapshot(self) -> list[Fact]:
        """At the first tick of a month: what is used by every account, whoever is set aside."""
        month_s = month_of(self.log_ms // 1_000)
        if month_s <= self.snapshot_s:
            return []
        self.snapshot_s = month_s
        rows: list[Fact] = []
        for account in sorted(self.accounts, key=str.encode):
            used = sorted((meter, *row) for (name, meter), row in self.used.items() if name == account)
            counters = [[meter, start_s, plain(quantity)] for meter, start_s, quantity in used]
            rows.append(("account snapshot", account, counters, self.accounts[account]))
        return [("snapshot begun", month_s), *rows, ("snapshot done", month_s)]

    def _close(self, key: tuple[Any, ...]) -> Fact:
        offset = self.versions.pop(key)
        if key[0] == "stripe":
            _, hour, account, customer, meter = key
            return ("stripe hour closed", account, customer, meter, hour, plain(self.stripe.pop(key)), offset)
        _, day, account, month_s, meter, feature, model, hour = key
        return (
            "total closed", account, month_s, meter, feature, model, hour, day, *summed(self.totals.pop(key)), offset
        )  # fmt: skip


def measured(event: Event) -> list[tuple[str, Decimal]]:
    if event.meter is not None:
        return [(event.meter, Decimal(event.quantity))]
    tokens: Iterable[tuple[str, int | None]] = (
        ("tokens", (event.input_tokens or 0) + (event.output_tokens or 0)),
        ("input_tokens", event.input_tokens),
        ("output_tokens", event.output_tokens),
    )
    counts = [] if event.input_tokens is event.output_tokens is None else tokens
    return [("calls", Decimal(event.quantity)), *((meter, Decimal(n)) for meter, n in counts if n is not None)]


def summed(lines: list[Line]) -> tuple[str, int, bytes]:
    quantity = sum((line.quantity for line in lines), Decimal(0))
    total = sum(line.digest for line in lines) % 2**128
    return plain(quantity), len(lines), total.to_bytes(16, "little")


def plain(quantity: Decimal) -> str:
    text = f"{quantity:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def digest(event_id: str, meter: str, quantity: Decimal, occurred_at_us: int) -> int:
    words = [word.encode() for word in (event_id, meter, plain(quantity), str(occurred_at_us))]
    spelled = b"".join(str(len(word)).encode() + b":" + word for word in words)
    return int.from_bytes(sha256(spelled).digest()[:16], "little")


def month_of(moment_s: int) -> int:
    moment = datetime.fromtimestamp(moment_s, UTC)
    return int(datetime(moment.year, moment.month, 1, tzinfo=UTC).timestamp())

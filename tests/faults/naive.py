"""What should come of what was sent, reckoned by the plainest means: dictionaries, sets and Decimals.

Written from the documents alone. It imports nothing of the product, so that a mistake there is not made here too.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal
from typing import NamedTuple

__all__ = ["Model", "Sent", "Sum", "Used", "hour_of"]

_HOUR_US = 3_600_000_000
_AT_STRIPE = {"calls", "tokens", "searches", "images", "audio_seconds"}
"""The meters that the plan every customer starts on reports to Stripe."""

EventId = tuple[str, str]
"""Account and event id: what an event is known by."""


class Sent(NamedTuple):
    """A usage event that nothing is wrong with."""

    org: str
    customer: str
    event_id: str
    occurred_at_us: int
    quantity: str
    meter: str | None = None
    """None: one call of a language model (`llm.call`)."""
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    failed: bool = False
    feature: str | None = None
    model: str | None = None

    @property
    def account(self) -> str:
        return f"{self.org}/{self.customer}"

    @property
    def id(self) -> EventId:
        return self.account, self.event_id


class Used(NamedTuple):
    """Whose usage of what."""

    account: str
    meter: str


class Sum(NamedTuple):
    quantity: Decimal
    events: int


def hour_of(occurred_at_us: int) -> int:
    """Whole hours since 1970."""
    return occurred_at_us // _HOUR_US


@dataclass
class Model:
    """Everything that was sent, once, whatever number of times it was sent."""

    events: dict[EventId, Sent] = field(default_factory=dict)
    """By id: the first of its kind. What came later with the same id is either the same or broken."""
    broken: Counter[str] = field(default_factory=Counter)
    """Records that can never count, by the reason that each must be given."""
    broken_copies: int = 0
    """Of them, those that bear the id of an event that is good elsewhere."""
    commands: int = 0
    """Forged ones; they are accounted for apart."""

    def send(self, event: Sent) -> None:
        """A good event goes out, for the first time or again."""
        known = self.events.setdefault(event.id, event)
        assert known == event, f"the load uses the id {event.id} for two events"

    def send_broken(self, reason: str, *, bears_known_id: bool = False) -> None:
        self.broken[reason] += 1
        self.broken_copies += bears_known_id

    def __iadd__(self, other: Model) -> Model:
        """What another door has sent, too."""
        for event in other.events.values():
            self.send(event)
        self.broken += other.broken
        self.broken_copies += other.broken_copies
        self.commands += other.commands
        return self

    @property
    def counted(self) -> set[EventId]:
        return {event.id for event in self.events.values() if not event.failed}

    @property
    def failed(self) -> set[EventId]:
        return {event.id for event in self.events.values() if event.failed}

    @property
    def rejected(self) -> Counter[str]:
        """Refusals by reason. A failed call is refused once; when it comes again it is a duplicate."""
        failed = Counter({"failed_call": len(self.failed)})
        return self.broken + failed

    @property
    def usage(self) -> dict[Used, Sum]:
        """What each customer used of each meter, and in how many events."""
        usage: dict[Used, Sum] = {}
        for event in self.events.values():
            for meter, quantity in _measured(event).items():
                used = Used(event.account, meter)
                known = usage.get(used, Sum(Decimal(0), 0))
                usage[used] = Sum(known.quantity + quantity, known.events + 1)
        return usage

    @property
    def stripe(self) -> dict[tuple[Used, int], Decimal]:
        """What Stripe is told: per customer, meter and hour. An hour of nothing need not be told."""
        told: dict[tuple[Used, int], Decimal] = {}
        for event in self.events.values():
            for meter, quantity in _measured(event).items():
                if meter in _AT_STRIPE:
                    key = Used(event.account, meter), hour_of(event.occurred_at_us)
                    told[key] = told.get(key, Decimal(0)) + quantity
        return {key: quantity for key, quantity in told.items() if quantity}


def _measured(event: Sent) -> dict[str, Decimal]:
    """What the event counts on each meter. Tokens are those of the request and of the response; the rest are parts of them."""
    if event.failed:
        return {}
    if event.meter is not None:
        return {event.meter: Decimal(event.quantity)}
    tokens = None
    if event.input_tokens is not None or event.output_tokens is not None:
        tokens = (event.input_tokens or 0) + (event.output_tokens or 0)
    found = {
        "calls": Decimal(event.quantity),
        "tokens": tokens,
        "input_tokens": event.input_tokens,
        "output_tokens": event.output_tokens,
        "cached_tokens": event.cached_tokens,
        "reasoning_tokens": event.reasoning_tokens,
    }
    return {meter: Decimal(quantity) for meter, quantity in found.items() if quantity is not None}

"""What lies on `stripe-intents`: what was decided to be told to Stripe, and what came of it, as MessagePack arrays.

    [1, version, …]   an intent, committed before its request leaves      [2, version, …]   an outcome, after its answer

Both name a window: Stripe customer, Stripe meter and UTC hour. The key is the window and the identifier; the partition
follows from customer and meter, so that all that concerns a window is read in the order in which it was written. An intent
without an outcome is pending: Stripe may or may not have it. An outcome without an intent was decided without asking Stripe.
Fields are only ever added, at the end, with a default.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NamedTuple

import msgspec

from billing.routing import partition_of

__all__ = [
    "INTENTS_VERSION",
    "Intent",
    "Outcome",
    "RowVersion",
    "Status",
    "Target",
    "Told",
    "Window",
    "accepted_totals",
    "decode_intent_record",
    "encode_intent_record",
    "intent_key",
    "intent_partition",
    "reduce_intents",
]

INTENTS_VERSION: Final = 1


class Target(StrEnum):
    """Who was told. What one of them has says nothing about the others."""

    DOUBLE = "double"
    """The built-in double: a dry run."""
    TEST = "test"
    """Stripe, with a test key."""
    LIVE = "live"


class Status(StrEnum):
    """What came of it, definitely."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    """`code` says why. Not sent again until the total changes."""
    UNLINKED = "unlinked"
    """Not sent: the customer is no customer of Stripe's (`cus_…`)."""


class Window(NamedTuple):
    """What Stripe keeps one value of."""

    stripe_customer: str
    stripe_event_name: str
    hour: int
    """Whole hours since the epoch, UTC."""


class RowVersion(msgspec.Struct, frozen=True, array_like=True):
    """A row of `usage-totals` at the version that was read."""

    account: str
    incarnation: int
    partition: int
    version_offset: int


class Intent(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """The exact request that is about to be made. A repeat of it is made from this record alone."""

    version: int
    target: Target
    stripe_customer: str
    stripe_event_name: str
    hour: int
    identifier: str
    """Stripe's identifier and the Idempotency-Key: it pins the quantity."""
    quantity: str
    """The window's absolute total, plain decimal."""
    timestamp_s: int
    """Within the hour."""
    series: int
    """Counts up when the same total must be told again under another identifier."""
    send_number: int
    """0 for the window's first intent."""
    decided_at_ms: int
    rows: tuple[RowVersion, ...]
    """The rows that add up to it: one, unless several accounts are one customer at Stripe. At most the first 100."""

    @property
    def window(self) -> Window:
        return Window(self.stripe_customer, self.stripe_event_name, self.hour)


class Outcome(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """What came of it. Self-contained, so that the outcomes alone say what Stripe has."""

    version: int
    target: Target
    stripe_customer: str
    stripe_event_name: str
    hour: int
    identifier: str
    status: Status
    quantity: str
    series: int
    code: str | None
    """Stripe's code of a refusal; `duplicate_meter_event` where a repeat met its own identifier and is accepted."""
    message: str | None
    livemode: bool
    """As Stripe answered; false for everything that was not sent."""
    request_id: str | None
    at_ms: int

    @property
    def window(self) -> Window:
        return Window(self.stripe_customer, self.stripe_event_name, self.hour)


@dataclass(slots=True)
class Told:
    """What a target has been told, by window."""

    accepted: dict[Window, Outcome] = field(default_factory=dict)
    """The last one that was accepted: the value that stands at Stripe, unless an intent is pending."""
    refused: dict[Window, Outcome] = field(default_factory=dict)
    """Windows whose last word is a refusal."""
    unlinked: dict[Window, Outcome] = field(default_factory=dict)
    pending: dict[str, Intent] = field(default_factory=dict)
    """Intents without an outcome, by identifier."""

    @property
    def pending_count(self) -> int:
        return len(self.pending)


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Intent | Outcome).decode


def encode_intent_record(record: Intent | Outcome) -> bytes:
    return _encode(record)


def decode_intent_record(value: bytes) -> Intent | Outcome:
    """A value of `stripe-intents`."""
    record: Intent | Outcome = _decode(value)
    return record


def intent_key(record: Intent | Outcome) -> bytes:
    """The record's key: window and identifier, apart by zero bytes, which no name on the log may hold."""
    parts = (record.stripe_customer, record.stripe_event_name, str(record.hour), record.identifier)
    return "\x00".join(parts).encode()


def intent_partition(record: Intent | Outcome, partition_count: int) -> int:
    return partition_of(f"{record.stripe_customer}\x00{record.stripe_event_name}".encode(), partition_count)


def reduce_intents(records: Iterable[Intent | Outcome], target: Target) -> Told:
    """What `target` was told. Records of one window in their order; windows may be mixed in any way."""
    told = Told()
    for record in records:
        if record.target != target:
            continue
        if isinstance(record, Intent):
            told.pending[record.identifier] = record
        else:
            _apply(told, record)
    return told


def accepted_totals(records: Iterable[Intent | Outcome], target: Target) -> dict[Window, str]:
    """The last accepted value of each window, plain decimal."""
    told = reduce_intents(records, target)
    return {window: outcome.quantity for window, outcome in told.accepted.items()}


def _apply(told: Told, outcome: Outcome) -> None:
    told.pending.pop(outcome.identifier, None)
    window = outcome.window
    told.refused.pop(window, None)
    match outcome.status:
        case Status.ACCEPTED:
            told.accepted[window] = outcome
        case Status.REFUSED:
            told.refused[window] = outcome
        case Status.UNLINKED:
            told.unlinked[window] = outcome

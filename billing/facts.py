"""Facts: what a record caused. The ledger is made of them, and folding them again gives the same state.

A fact's fields are plain values that go to the ledger as they stand (quantities as plain decimal strings, since sums may
pass 64 bits). The order of fields is the wire's order: new ones go to the end, with a default.
"""

from enum import StrEnum

import msgspec

from billing.catalog.types import PlanRef
from billing.records import UsageEvent

__all__ = [
    "AccountOpened",
    "AccountSnapshot",
    "BehaviourSwitched",
    "CommandRefused",
    "Entry",
    "EventCounted",
    "EventDuplicate",
    "EventRejected",
    "Fact",
    "GenesisApplied",
    "GenesisRefused",
    "LateApproved",
    "LateReceived",
    "LateRejected",
    "LateRepeated",
    "LateSnapshot",
    "OrderApplied",
    "OrderEffect",
    "OrderHonoured",
    "OrderRepeated",
    "PairsCapped",
    "Reason",
    "SnapshotBegun",
    "SnapshotDone",
    "StripeHourClosed",
    "Ticked",
    "TotalClosed",
]


class Reason(StrEnum):
    """Why a record was refused; a closed list."""

    UNREADABLE = "unreadable"
    MISROUTED = "misrouted"
    KEY_MISMATCH = "key_mismatch"
    INVALID_FIELD = "invalid_field"
    UNKNOWN_CUSTOMER = "unknown_customer"
    UNKNOWN_METER = "unknown_meter"
    IN_FUTURE = "in_future"
    TOO_OLD = "too_old"
    ID_CONFLICT = "id_conflict"
    CLOSED_PERIOD = "closed_period"
    FAILED_CALL = "failed_call"
    METER_NOT_ENABLED = "meter_not_enabled"
    UNSIGNED = "unsigned"
    STALE = "stale"
    QUARANTINED = "quarantined"


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """What one event added to one meter."""

    meter: str
    quantity: str
    """Plain decimal."""
    stripe_event_name: str | None
    """The Stripe meter that gets the same quantity; None: Stripe gets nothing of it."""


class EventCounted(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """A usage event was counted, once, on each of `entries`' meters."""

    account: str
    """`org/customer`."""
    event_id: str
    occurred_at_us: int
    payload_digest: bytes
    feature: str
    """The label it is totalled under: the event's feature, empty when it has none, `~other` past the cap on pairs."""
    model: str
    hour: int
    """Whole hours since the epoch, of `occurred_at`."""
    booking_day: int
    """Whole days since the epoch, of log time: the day on which it was counted."""
    billing_start_s: int
    """Start of the billing period that `occurred_at` falls into."""
    stripe_customer: str
    entries: tuple[Entry, ...]


class EventDuplicate(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """The same event was seen before, by the record at `first_offset` of this partition."""

    account: str
    event_id: str
    first_offset: int
    """As an ordinal: in a log's first incarnation the offset (`billing.records.Position.ordinal`)."""


class EventRejected(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """A usage event was not counted, for `reason`."""

    reason: Reason
    field: str | None
    """The field at fault, where one is."""
    message: str
    """What was wrong and what to do."""
    account: str | None
    event_id: str | None
    payload_digest: bytes | None
    """Given where the id is kept all the same (a failed call): what a repeat is compared with."""


class AccountOpened(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """The account's first event: it is a customer of the default plan from here on."""

    account: str
    plan: PlanRef
    stripe_customer: str


class PairsCapped(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """An alert: the customer used more feature and model pairs in a day than totals keep apart; the rest is `~other`."""

    account: str
    booking_day: int


class Ticked(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """Time passed. `more`: things that were due are left for another tick."""

    more: bool


class TotalClosed(msgspec.Struct, frozen=True, array_like=True, tag=7):
    """The final value of an hour total, whose booking day has passed."""

    account: str
    billing_start_s: int
    meter: str
    feature: str
    model: str
    hour: int
    booking_day: int
    quantity: str
    event_count: int
    digest: bytes
    """Sum mod 2^128 of the events' digests, 16 bytes, little-endian."""
    version_offset: int
    """Of the last record that was counted in it, as an ordinal."""


class StripeHourClosed(msgspec.Struct, frozen=True, array_like=True, tag=8):
    """The final value of what Stripe is told of one hour: Stripe takes no more usage for it."""

    account: str
    stripe_customer: str
    stripe_event_name: str
    hour: int
    quantity: str
    version_offset: int


class GenesisApplied(msgspec.Struct, frozen=True, array_like=True, tag=9):
    """The partition belongs to this deployment."""

    deployment_id: str
    incarnation: int
    partition_count: int
    operator_public_key: bytes


class GenesisRefused(msgspec.Struct, frozen=True, array_like=True, tag=10):
    """A second genesis changes nothing."""

    message: str


class CommandRefused(msgspec.Struct, frozen=True, array_like=True, tag=11):
    """A command had no effect, for `reason`."""

    reason: Reason
    kind: str
    message: str


class OrderEffect(msgspec.Struct, frozen=True, array_like=True):
    """What an operator's order changes, in plain values. Those that change nothing of the state have the kind alone."""

    kind: str
    """The order's type: `time`, `quarantine_account`, …"""
    account: str | None = None
    """Whom it sets aside or releases."""
    number: int | None = None
    """Its place among the account's orders: when it was issued, in ms."""
    first_offset: int | None = None
    last_offset: int | None = None
    """From where to where log time stands, both included."""


class OrderHonoured(msgspec.Struct, frozen=True, array_like=True, tag=12):
    """An order that lies further on the log let this record through: always its record's first fact."""

    order: bytes
    """The order as it lies on the log."""
    key: bytes | None
    """The order's key there."""
    offset: int
    """Where it lies, on the same partition."""
    effect: OrderEffect


class OrderApplied(msgspec.Struct, frozen=True, array_like=True, tag=13):
    """An order took effect at its own place."""

    effect: OrderEffect


class BehaviourSwitched(msgspec.Struct, frozen=True, array_like=True, tag=14):
    """From the next record on the rules of `version` hold."""

    version: int


class OrderRepeated(msgspec.Struct, frozen=True, array_like=True, tag=15):
    """An order that has had its effect before: it let a record through, or was sent twice. Nothing changes."""

    kind: str


class LateReceived(msgspec.Struct, frozen=True, array_like=True, tag=16):
    """An event older than the window waits for a person's decision."""

    account: str
    payload_digest: bytes
    event: UsageEvent


class LateRepeated(msgspec.Struct, frozen=True, array_like=True, tag=17):
    """The same late event was received, or counted, before, at `first_offset` of this partition. Nothing changes."""

    account: str
    event_id: str
    first_offset: int


class LateApproved(msgspec.Struct, frozen=True, array_like=True, tag=18):
    """A person approved a late event. It is counted by the `EventCounted` behind this fact, at this record's position."""

    account: str
    payload_digest: bytes
    event: UsageEvent
    received_offset: int
    """Where it was received, on the same partition."""
    untold: tuple[Entry, ...]
    """What Stripe would have been told of it, and is not: it takes no usage that old. To be invoiced by hand."""


class LateRejected(msgspec.Struct, frozen=True, array_like=True, tag=19):
    """A person rejected a late event: it is never counted."""

    account: str
    event_id: str
    payload_digest: bytes
    received_offset: int


class SnapshotBegun(msgspec.Struct, frozen=True, array_like=True, tag=20):
    """From here on every account's row and every late event's is written down, until SnapshotDone; here, the partition's."""

    month_start_s: int
    """The UTC month of log time that it is for."""
    since_ms: int
    """The log time from which on the ledger's facts make all other rows that a decision can see."""
    deployment_id: str
    incarnation: int
    partition_count: int
    operator_public_key: bytes
    behaviour_version: int
    still: tuple[tuple[int, int], ...]
    honoured: tuple[int, ...]
    quarantines: tuple[tuple[str, int, bool], ...]
    """Account, number of the last order about it, and whether it is set aside; by account."""


class AccountSnapshot(msgspec.Struct, frozen=True, array_like=True, tag=21):
    """An account's whole row, as it is before this tick."""

    account: str
    plan: PlanRef
    opened_at_ms: int
    stripe_customer: str
    counters: tuple[tuple[str, int, str], ...]
    """Meter, start of its quota period, and what is used of it as a plain decimal; by meter."""
    applied_offset: int
    """As an ordinal."""


class LateSnapshot(msgspec.Struct, frozen=True, array_like=True, tag=22):
    """A late event's whole row, as it is before this tick."""

    account: str
    event_id: str
    received_offset: int
    """As an ordinal."""
    payload_digest: bytes
    event: UsageEvent | None
    approved: bool


class SnapshotDone(msgspec.Struct, frozen=True, array_like=True, tag=23):
    """Every account and every late event has a fact of the month's snapshot, or one that made it while that was written."""

    month_start_s: int


Fact = (
    EventCounted
    | EventDuplicate
    | EventRejected
    | AccountOpened
    | PairsCapped
    | Ticked
    | TotalClosed
    | StripeHourClosed
    | GenesisApplied
    | GenesisRefused
    | CommandRefused
    | OrderHonoured
    | OrderApplied
    | BehaviourSwitched
    | OrderRepeated
    | LateReceived
    | LateRepeated
    | LateApproved
    | LateRejected
    | SnapshotBegun
    | AccountSnapshot
    | LateSnapshot
    | SnapshotDone
)

"""What can lie on the log, decoded: the records that the fold decides, and where each one lies."""

from enum import StrEnum

import msgspec

__all__ = [
    "Command",
    "Genesis",
    "Logged",
    "Position",
    "Record",
    "Status",
    "Tick",
    "Unreadable",
    "UsageEvent",
    "from_ordinal",
    "name_of_ordinal",
]


class Position(msgspec.Struct, frozen=True, array_like=True):
    """Where a record lies; its identity for ever."""

    incarnation: int
    """Which making of the topic: a topic made anew, or moved to another cluster, gets the next number."""
    partition: int
    offset: int

    @property
    def ordinal(self) -> int:
        """Incarnation and offset as one number, which orders as they do; in the first incarnation it is the offset.

        Rows and facts name a record of their partition by it: offsets alone begin again when a log is made anew.
        """
        return (self.incarnation - 1 << _OFFSET_BITS) + self.offset


_OFFSET_BITS = 48
"""At a million records a second and partition they last for nine years; five bits of a 53-bit JSON number are left."""


def from_ordinal(ordinal: int) -> tuple[int, int]:
    """The incarnation and the offset of a record's ordinal."""
    incarnation, offset = divmod(ordinal, 1 << _OFFSET_BITS)
    return incarnation + 1, offset


def name_of_ordinal(ordinal: int) -> str:
    """A record of the partition, for people."""
    incarnation, offset = from_ordinal(ordinal)
    return f"offset {offset}" if incarnation == 1 else f"offset {offset} of incarnation {incarnation}"


class Status(StrEnum):
    SUCCEEDED = "succeeded"
    FAILED = "failed"


class UsageEvent(msgspec.Struct, frozen=True, array_like=True):
    """One use of something, as its producer told it; fields in the order of the Avro schema."""

    event_id: str
    """Unique for org and customer; what duplicates are found by."""
    occurred_at_us: int
    """When it happened, microseconds since the epoch, UTC."""
    customer_id: str
    meter: str | None = None
    """The meter that `quantity` is of. Exactly one of `meter` and `event_type` is given."""
    event_type: str | None = None
    """A kind of event that the catalog maps to meters."""
    quantity: str = "1"
    """A plain decimal string, 0 or more, at most 18 whole digits and 9 decimals."""
    status: str = Status.SUCCEEDED
    feature: str | None = None
    model: str | None = None
    tags: tuple[str, ...] = ()
    properties: dict[str, str] = {}
    """The producer's own labels. No personal data: they are kept for ever."""
    input_tokens: int | None = None
    """All tokens of the request, cached ones included."""
    output_tokens: int | None = None
    """All tokens of the response, reasoning ones included."""
    cached_tokens: int | None = None
    """The part of `input_tokens` that came from a cache."""
    reasoning_tokens: int | None = None
    """The part of `output_tokens` that was reasoning."""


class Tick(msgspec.Struct, frozen=True):
    """Time has passed: what is due by this record's log time is decided. Without authority, so never signed."""

    issued_at_ms: int


class Genesis(msgspec.Struct, frozen=True):
    """The first record of each partition: which deployment this log belongs to."""

    deployment_id: str
    incarnation: int
    partition_count: int
    operator_public_key: bytes
    """Ed25519, 32 bytes: whose signature orders and node keys must bear."""


class Command(msgspec.Struct, frozen=True):
    """A signed request to an account. Its kinds are decided by `type`."""

    type: str
    deployment_id: str
    request_id: bytes
    issued_at_ms: int
    value: bytes
    key_id: str
    signature: bytes


class Unreadable(msgspec.Struct, frozen=True):
    """Bytes that are no record; `detail` says why, as a function of the bytes alone."""

    detail: str


Record = UsageEvent | Tick | Genesis | Command | Unreadable


class Logged(msgspec.Struct, frozen=True):
    """A record as the log gave it. Nothing else is an input of a decision."""

    record: Record
    key: bytes | None
    log_ms: int
    """Log time: the partition's append time, never going back. Milliseconds since the epoch."""

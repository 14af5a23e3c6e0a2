"""The fold's state of one partition: rows in families, read by `decide` and written by `evolve` alone.

`State` is the port; `MemoryState` is the whole of it in dictionaries, and `streams` has one over RocksDB.
"""

from bisect import bisect_right
from collections.abc import ItemsView
from typing import Any, Final, Generic, NamedTuple, Protocol, TypeVar

import msgspec

from billing.catalog.types import PlanRef
from billing.records import UsageEvent

__all__ = [
    "NOBODY",
    "Account",
    "Counter",
    "Family",
    "Late",
    "LateKey",
    "MemoryFamily",
    "MemoryOrdered",
    "MemoryState",
    "Ordered",
    "PairsKey",
    "PartitionRow",
    "Quarantine",
    "Register",
    "Seen",
    "SeenKey",
    "State",
    "StripeHour",
    "StripeHourKey",
    "Total",
    "TotalKey",
]


class PartitionRow(msgspec.Struct, frozen=True):
    """What the genesis said, and what orders have changed since."""

    deployment_id: str
    incarnation: int
    partition_count: int
    operator_public_key: bytes
    behaviour_version: int = 1
    """By which rules the next record is decided."""
    still: tuple[tuple[int, int], ...] = ()
    """Stretches of offsets, first and last, over which log time stands by order."""
    honoured: tuple[int, ...] = ()
    """Offsets, further on, of orders that have let a record through and so had their effect."""
    snapshot_month_s: int = 0
    """The month whose snapshot was begun last, by its first moment; 0: there was none."""
    snapshot_cursor: str | None = None
    """How far that snapshot is (see `billing.snapshots`); None: it is done."""


class Quarantine(msgspec.Struct, frozen=True):
    """What was last ordered about an account."""

    number: int
    """When that order was issued, in ms: an older one does nothing any more."""
    aside: bool
    """Whether the account is set aside; False: it was released."""


class Counter(msgspec.Struct, frozen=True):
    """What is used of one meter in its current quota period."""

    period_start_s: int
    used_nano: int


class Account(msgspec.Struct, frozen=True):
    plan: PlanRef
    opened_at_ms: int
    stripe_customer: str
    """Whom Stripe knows it as. Until it is linked to a customer of Stripe's (`cus_…`), the account's own name: never the
    bare customer id, with which one organisation could bill another's customer."""
    counters: dict[str, Counter]
    """By meter. A period's first event replaces its predecessor's counter."""
    applied_offset: int
    """The last record that changed this row, as an ordinal, like every offset in these rows."""


class SeenKey(NamedTuple):
    account: str
    event_id: str


class Seen(msgspec.Struct, frozen=True):
    """An event id that was met, and what a repeat must equal."""

    accepted_at_ms: int
    first_offset: int
    payload_digest: bytes


class TotalKey(NamedTuple):
    """An hour total. The booking day leads, so that rows in key order are rows in the order they close."""

    booking_day: int
    account: str
    billing_start_s: int
    meter: str
    feature: str
    model: str
    hour: int


class Total(msgspec.Struct, frozen=True):
    """Absolute: a reader replaces an older version of the row by a newer one."""

    quantity_nano: int
    event_count: int
    digest: int
    """Sum mod 2^128 of the digests of the events in it."""
    version_offset: int


class PairsKey(NamedTuple):
    booking_day: int
    account: str


class StripeHourKey(NamedTuple):
    """What Stripe is told of one hour. The hour leads: key order is the order of closing."""

    hour: int
    account: str
    stripe_customer: str
    stripe_event_name: str


class StripeHour(msgspec.Struct, frozen=True):
    quantity_nano: int
    version_offset: int


class LateKey(NamedTuple):
    account: str
    event_id: str


class Late(msgspec.Struct, frozen=True):
    """A late event that waits for a decision, or its id once it was decided. Never dropped: each id is decided once."""

    received_offset: int
    payload_digest: bytes
    event: UsageEvent | None
    """None: it was decided."""
    approved: bool = False
    """Of a decided one: whether it was approved and counted."""


NOBODY: Final[frozenset[str]] = frozenset()

K = TypeVar("K")
V = TypeVar("V")


class Family(Protocol[K, V]):
    """Rows of one kind."""

    def get(self, key: K, /) -> V | None: ...

    def put(self, key: K, row: V, /) -> None: ...

    def drop(self, key: K, /) -> None: ...

    def below(self, bound: int, limit: int, /, but: frozenset[str] = NOBODY) -> list[tuple[K, V]]:
        """The first `limit` rows, in key order, whose key's leading number is less than `bound`.

        Rows of the accounts in `but` are passed over; the account is a key's second part.
        """
        ...


class Ordered(Family[K, V], Protocol[K, V]):
    """Rows that are also gone through one after the other."""

    def after(self, key: K | None, limit: int, /) -> list[tuple[K, V]]:
        """The first `limit` rows behind `key`, in key order; None: from the first row on."""
        ...


class Register(Protocol[K, V]):
    """Rows of a kind of which there are few: all of them are at hand."""

    def get(self, key: K, /) -> V | None: ...

    def put(self, key: K, row: V, /) -> None: ...

    def items(self) -> ItemsView[K, V]: ...


class State(Protocol):
    """One partition's rows."""

    partition: PartitionRow | None
    """None until the genesis was applied."""
    log_ms: int
    """Log time of the last record; 0 before the first. `billing.step` alone moves it."""

    @property
    def quarantines(self) -> Register[str, Quarantine]:
        """By account."""
        ...

    @property
    def accounts(self) -> Ordered[str, Account]: ...
    @property
    def seen(self) -> Family[SeenKey, Seen]: ...
    @property
    def totals(self) -> Family[TotalKey, Total]: ...
    @property
    def pairs(self) -> Family[PairsKey, frozenset[tuple[str, str]]]: ...
    @property
    def late(self) -> Ordered[LateKey, Late]: ...
    @property
    def stripe_hours(self) -> Family[StripeHourKey, StripeHour]: ...


class MemoryFamily(Generic[K, V]):
    def __init__(self) -> None:
        self.rows: dict[K, V] = {}

    def get(self, key: K, /) -> V | None:
        return self.rows.get(key)

    def put(self, key: K, row: V, /) -> None:
        self.rows[key] = row

    def drop(self, key: K, /) -> None:
        del self.rows[key]

    def items(self) -> ItemsView[K, V]:
        return self.rows.items()

    def below(self, bound: int, limit: int, /, but: frozenset[str] = NOBODY) -> list[tuple[K, V]]:
        due = [item for item in self.rows.items() if _leads(item[0]) < bound and not _is_of(item[0], but)]
        return sorted(due, key=lambda item: _key_order(item[0]))[:limit]


class MemoryOrdered(MemoryFamily[K, V]):
    """Rows of a kind that is never dropped: their order is reckoned anew only when their number has changed."""

    def __init__(self) -> None:
        super().__init__()
        self._ordered: list[K] = []

    def after(self, key: K | None, limit: int, /) -> list[tuple[K, V]]:
        """As `Ordered.after`."""
        if len(self._ordered) != len(self.rows):
            self._ordered = sorted(self.rows, key=_key_order)
        start = 0 if key is None else bisect_right(self._ordered, _key_order(key), key=_key_order)
        return [(name, self.rows[name]) for name in self._ordered[start : start + limit]]


class MemoryState:
    """A working state in dictionaries, for tests, replay and models."""

    def __init__(self) -> None:
        self.partition: PartitionRow | None = None
        self.log_ms = 0
        self.quarantines: MemoryFamily[str, Quarantine] = MemoryFamily()
        self.accounts: MemoryOrdered[str, Account] = MemoryOrdered()
        self.seen: MemoryFamily[SeenKey, Seen] = MemoryFamily()
        self.totals: MemoryFamily[TotalKey, Total] = MemoryFamily()
        self.pairs: MemoryFamily[PairsKey, frozenset[tuple[str, str]]] = MemoryFamily()
        self.late: MemoryOrdered[LateKey, Late] = MemoryOrdered()
        self.stripe_hours: MemoryFamily[StripeHourKey, StripeHour] = MemoryFamily()


def _leads(key: object) -> int:
    assert isinstance(key, tuple)
    number: int = key[0]
    return number


def _is_of(key: object, accounts: frozenset[str]) -> bool:
    assert isinstance(key, tuple)
    return key[1] in accounts


def _key_order(key: object) -> tuple[Any, ...]:
    """Text compares by its UTF-8 bytes, as it does in a store of bytes."""
    if isinstance(key, str):
        return (key.encode(),)
    assert isinstance(key, tuple)
    return tuple(part.encode() if isinstance(part, str) else part for part in key)

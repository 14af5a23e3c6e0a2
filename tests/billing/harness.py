"""A fold of one partition in memory: records in, facts out, and everything that went in kept for another run."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NoReturn, TypeVar

from billing.catalog.builtin import BUILTIN_CATALOG
from billing.catalog.types import Catalog, Meter, Plan, PlanMeter, PlanRef, StripeKind, Value
from billing.facts import Fact
from billing.fold import decide, evolve
from billing.periods import PeriodKind
from billing.records import Genesis, Logged, Position, Record, UsageEvent
from billing.state import Family, MemoryState, PartitionRow, State
from schemas.ledger import Source, encode_facts

__all__ = [
    "CATALOG",
    "DAY_MS",
    "GENESIS",
    "HOUR_MS",
    "KEY",
    "T0_MS",
    "Entry",
    "Folding",
    "ReadOnlyState",
    "rows_of",
    "usage",
]

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
T0_MS = 1_772_323_200_000
"""2026-03-01T00:00:00Z: a month's first moment, after a short month."""
KEY = b"acme/alice"
GENESIS = Genesis("test", 1, 1, b"k" * 32)

_PLAN = Plan(
    ref=PlanRef("team", 3),
    name="Team",
    quota_period=PeriodKind.DAY,
    meters={
        "calls": PlanMeter(stripe=StripeKind.QUANTITY),
        "tokens": PlanMeter(stripe=StripeKind.QUANTITY, stripe_event_name="llm_usage"),
        "output_tokens": PlanMeter(limit_nano=10**12, stripe=StripeKind.QUANTITY, stripe_event_name="llm_usage"),
        "custom1": PlanMeter(),
        "reports": PlanMeter(),
    },
)
CATALOG = Catalog.build(
    revision=1,
    currency="USD",
    meters=[
        *BUILTIN_CATALOG.meters.values(),
        Meter("reports", event_type="report.generated", custom=True),
        Meter("drafts", event_type="draft.generated", custom=True),
        Meter("sips", event_type="sip", value=Value.OUTPUT_TOKENS),
    ],
    plans=[_PLAN],
    default=_PLAN.ref,
)
"""Quotas by the day, two meters that go to one Stripe meter, custom meters that the plan names and that it does not."""


def usage(event_id: str = "e1", occurred_at_ms: int = T0_MS, customer_id: str = "alice", **fields: Any) -> UsageEvent:
    """A usage event that counts, but for what `fields` say."""
    if "meter" not in fields and "event_type" not in fields:
        fields["meter"] = "calls"
    return UsageEvent(event_id, occurred_at_ms * 1_000, customer_id, **fields)


@dataclass(frozen=True)
class Entry:
    """One record on the test's log."""

    record: Record
    key: bytes | None = KEY
    log_ms: int = T0_MS


K = TypeVar("K")
V = TypeVar("V")


class _ReadOnlyFamily(Generic[K, V]):
    def __init__(self, family: Family[K, V]) -> None:
        self._family = family

    def get(self, key: K, /) -> V | None:
        return self._family.get(key)

    def below(self, bound: int, limit: int, /) -> list[tuple[K, V]]:
        return self._family.below(bound, limit)

    def put(self, key: K, row: V, /) -> NoReturn:
        message = f"decide wrote {key}"
        raise AssertionError(message)

    def drop(self, key: K, /) -> NoReturn:
        message = f"decide dropped {key}"
        raise AssertionError(message)


class ReadOnlyState:
    """A state that `decide` may ask and not change."""

    def __init__(self, state: State) -> None:
        self._state = state

    @property
    def partition(self) -> PartitionRow | None:
        return self._state.partition

    @partition.setter
    def partition(self, row: PartitionRow | None) -> None:
        message = "decide wrote the partition's row"
        raise AssertionError(message)

    def __getattr__(self, family: str) -> Any:
        return _ReadOnlyFamily(getattr(self._state, family))


Decide = Callable[[Any, Catalog, Logged, Position], list[Fact]]
Evolve = Callable[[Any, Catalog, Fact, Position, int], None]


class Folding:
    """A partition from its genesis on. `decide` and `evolve` are given by tests that break them on purpose."""

    def __init__(
        self,
        catalog: Catalog = CATALOG,
        *,
        state: MemoryState | None = None,
        offset: int = 0,
        decide: Decide = decide,
        evolve: Evolve = evolve,
        genesis: Genesis | None = GENESIS,
    ) -> None:
        self.state = state or MemoryState()
        self.catalog = catalog
        self.next_offset = offset
        self.ledger: list[bytes] = []
        self.facts: list[tuple[Fact, Position, int]] = []
        self._decide = decide
        self._evolve = evolve
        if state is None and genesis is not None:
            self.append(Entry(genesis, None))

    def append(self, entry: Entry) -> list[Fact]:
        """Decide one record at the log's end, and apply what it caused."""
        position = Position(1, 0, self.next_offset)
        logged = Logged(entry.record, entry.key, entry.log_ms)
        facts = self._decide(ReadOnlyState(self.state), self.catalog, logged, position)
        for fact in facts:
            self._evolve(self.state, self.catalog, fact, position, entry.log_ms)
            self.facts.append((fact, position, entry.log_ms))
        source = Source(entry.key, None, (), entry.log_ms, position.offset - 1)
        self.ledger += encode_facts(position, entry.log_ms, source, facts)
        self.next_offset += 1
        return facts

    def extend(self, entries: Iterable[Entry]) -> Folding:
        for entry in entries:
            self.append(entry)
        return self

    def outcome(self, record: Record, log_ms: int = T0_MS, key: bytes | None = KEY) -> Fact:
        """Append a record; of its facts, the one that says what came of it."""
        facts: Sequence[Fact] = self.append(Entry(record, key, log_ms))
        (outcome,) = [fact for fact in facts if type(fact).__name__ not in ("AccountOpened", "PairsCapped")]
        return outcome


def rows_of(state: MemoryState) -> dict[str, Any]:
    """All rows, apart from the state they were taken from."""
    families = {name: family.rows for name, family in vars(state).items() if name != "partition"}
    return copy.deepcopy({"partition": state.partition, **families})

"""A fold of one partition in memory: records in, facts out, and everything that went in kept for another run."""

from __future__ import annotations

import copy
from collections.abc import Callable, ItemsView, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NoReturn, TypeVar

from billing.behaviours import Rules
from billing.catalog.builtin import BUILTIN_CATALOG
from billing.catalog.types import Catalog, Meter, Plan, PlanMeter, PlanRef, StripeKind, Value
from billing.facts import Fact
from billing.fold import decide, evolve, is_due
from billing.orders.fold import Heard
from billing.periods import PeriodKind
from billing.records import Genesis, Logged, Position, Record, UsageEvent
from billing.state import NOBODY, MemoryFamily, MemoryState, PartitionRow, State
from billing.step import JUMP_MS_MAX, step
from schemas.ledger import Source, encode_facts
from tests.support.operator import public_key

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
GENESIS = Genesis("test", 1, 1, public_key())

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
    """Append time: log time, but where a test says otherwise."""
    heard: Heard | None = None
    """An order, further on, that lets it through."""


K = TypeVar("K")
V = TypeVar("V")


class _ReadOnlyFamily(Generic[K, V]):
    def __init__(self, family: MemoryFamily[K, V]) -> None:
        self._family = family

    def get(self, key: K, /) -> V | None:
        return self._family.get(key)

    def below(self, bound: int, limit: int, /, but: frozenset[str] = NOBODY) -> list[tuple[K, V]]:
        return self._family.below(bound, limit, but)

    def items(self) -> ItemsView[K, V]:
        return self._family.items()

    def after(self, key: Any, limit: int, /) -> Any:
        return self._family.after(key, limit)  # type: ignore[attr-defined]

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
        sparse: bool = True,
    ) -> None:
        """`sparse`: more than 40 days may lie between two entries, as if records that changed nothing had come between."""
        self.state = state or MemoryState()
        self.catalog = catalog
        self.sparse = sparse
        self.next_offset = offset
        self.ledger: list[bytes] = []
        self.facts: list[tuple[Fact, Position, int]] = []
        self._rules = Rules(lambda state, *rest: decide(ReadOnlyState(state), *rest), evolve, is_due)
        if state is None and genesis is not None:
            self.append(Entry(genesis, None))

    def append(self, entry: Entry) -> list[Fact]:
        """Decide one record at the log's end, and apply what it caused."""
        position = Position(1, 0, self.next_offset)
        if self.sparse:
            self.state.log_ms = max(self.state.log_ms, entry.log_ms - JUMP_MS_MAX)
        facts = step(
            *(self.state, {1: self._rules}, self.catalog, entry.record, entry.key, entry.log_ms, position, entry.heard)
        )
        self.facts += [(fact, position, self.state.log_ms) for fact in facts]
        source = Source(entry.key, None, (), entry.log_ms, position.offset - 1)
        self.ledger += encode_facts(position, self.state.log_ms, source, facts)
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
    families = {name: family.rows for name, family in vars(state).items() if isinstance(family, MemoryFamily)}
    return copy.deepcopy({"partition": state.partition, **families})

"""Histories from seeds: a load with everything that producers do, and everything that goes wrong beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from random import Random

from billing.orders.types import Order, QuarantineAccount, QuarantineRecord, ReleaseAccount, Resume, Time
from billing.records import Command, Position, Tick, UsageEvent
from billing.records import Genesis as GenesisRecord
from billing.routing import partition_of
from schemas.codec import encode
from schemas.usage_event_avro import encode_usage_event
from streams.epoch import GAPS
from tests.simulation import model
from tests.simulation.steps import (
    Action,
    Away,
    BrokerClock,
    Compact,
    CutOff,
    Effect,
    Fault,
    ForeignTxn,
    ForgetGroup,
    Join,
    Leap,
    Pause,
    Rebalance,
    Record,
    Send,
    Step,
    WorkerClock,
)
from tests.support.operator import OPERATOR_KEY, STRANGERS_KEY, key_of, public_key, signed

__all__ = [
    "GENESIS",
    "LOST_MARKERS",
    "POISONS",
    "START_MS",
    "Plan",
    "genesis_of",
    "order_record",
    "plan_of",
    "record_of",
]

START_MS = 1_772_323_200_000 - 3 * 3_600_000
"""2026-02-28T21:00:00Z: a month ends soon."""
MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000
GENESIS = GenesisRecord("simulated", 1, 2, public_key())
_ACCOUNTS = ("acme/alice", "acme/bob", "umbra/\u00e9l\u00e8ve/1", "umbra/x", "zed/0")
_AGES_MS = (
    0,
    0,
    0,
    1_000,
    50 * MINUTE_MS,
    2 * HOUR_MS,
    DAY_MS,
    33 * DAY_MS,
    35 * DAY_MS,
    -4 * MINUTE_MS,
    -6 * MINUTE_MS,
)
_LEAPS_MS = (HOUR_MS, 4 * HOUR_MS, DAY_MS, 3 * DAY_MS, 8 * DAY_MS, 15 * DAY_MS, 34 * DAY_MS, 36 * DAY_MS)
_CLOCKS_MS = (-DAY_MS, -3_000, -200, 500, 90_000, 200_000, 365 * DAY_MS)

_POINTS: tuple[tuple[str, int], ...] = (
    ("opening a writer", 8),
    ("asking where logs begin and end", 8),
    ("asking for the group's offsets", 4),
    ("reading accounts-changelog", 12),
    ("reading seen-changelog", 12),
    ("reading ledger", 6),
    ("fetching", 60),
    ("beginning a transaction", 25),
    ("producing to ledger", 30),
    ("producing to usage-totals", 20),
    ("producing to accounts-changelog", 30),
    ("producing to seen-changelog", 30),
    ("producing to dead-letters", 8),
    ("sending the group's offset", 25),
    ("committing", 25),
    ("committing", 25),
    ("writing a batch to accounts", 30),
    ("writing a batch to seen", 30),
    ("appending a tick", 6),
    *((f"gap: {gap}", 25) for gap in GAPS),
)
"""Where things go wrong, and how often a history passes there."""
LOST_MARKERS = "writing a transaction's markers"
_OF_REQUESTS = tuple(Effect)
_OF_POINTS = (Effect.KILLED, Effect.KILLED, Effect.PAUSED, Effect.CUT_OFF)


@dataclass(frozen=True)
class Plan:
    """A history before it happens. Any part of its steps is a history, too."""

    seed: int
    partition_count: int
    node_count: int
    steps: tuple[Step, ...]

    def only(self, numbers: Sequence[int]) -> Plan:
        """The same history without the other steps."""
        wanted = set(numbers)
        return replace(self, steps=tuple(step for step in self.steps if step.number in wanted))


def genesis_of(partition_count: int) -> tuple[GenesisRecord, model.Genesis]:
    """The first record of each partition, and the note beside it."""
    record = GenesisRecord(GENESIS.deployment_id, GENESIS.incarnation, partition_count, GENESIS.operator_public_key)
    note = model.Genesis(record.deployment_id, record.incarnation, partition_count, record.operator_public_key)
    return record, note


def plan_of(seed: int) -> Plan:
    """The history of a seed: the same for ever, until this module changes."""
    return _Planner(seed).plan()


class _Planner:
    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._rng = Random(seed)
        self._partition_count = self._rng.choice((1, 2, 2, 3))
        self._node_count = self._rng.choice((1, 2, 2, 3))
        self._actions: list[tuple[float, Action]] = []
        self._wall_ms = START_MS
        self._sent: list[Record] = []
        self._id_count = 0

    def plan(self) -> Plan:
        rng = self._rng
        at_s = 0.0
        for node in range(self._node_count):
            self._actions.append((0.0 if node == 0 else rng.random() * 4, Join(node)))
        trouble = rng.choice((0, 1, 2, 3, 5, 8)) / 30
        for _ in range(rng.randrange(8, 50)):
            at_s += rng.choice((0.0, 0.0, 0.01, 0.05, 0.3, 1.0, 2.5))
            chaos = rng.random() < trouble
            self._actions.append((at_s, self._trouble() if chaos else self._load()))
            if chaos and rng.random() < 0.2:
                self._actions.append((at_s, self._absence(at_s)))
        faults = [self._fault() for _ in range(rng.choice((0, 1, 1, 2, 3, 5)))]
        actions = [*((0.0, fault) for fault in faults), *sorted(self._actions, key=lambda item: item[0])]
        steps = tuple(Step(number, when_s, action) for number, (when_s, action) in enumerate(actions))
        return Plan(self._seed, self._partition_count, self._node_count, steps)

    # Load

    def _load(self) -> Action:
        if self._rng.random() < 0.04:
            records = tuple(self._record() for _ in range(self._rng.randrange(1, 4)))
            return ForeignTxn(records, self._rng.choice(("commit", "abort", "abandon")))
        return Send(self._record())

    def _record(self) -> Record:
        kind = self._rng.choices(
            (
                self._fresh,
                self._again,
                self._conflict,
                self._astray,
                self._flawed,
                self._strange,
                self._poison,
                self._order,
            ),
            (60, 18, 4, 3, 9, 6, 2, 3),
        )[0]
        return kind()

    def _fresh(self) -> Record:
        rng = self._rng
        account = rng.choice(_ACCOUNTS)
        self._id_count += 1
        event_id = f"e{self._id_count}" if rng.random() < 0.9 else f"e{rng.randrange(4)}"
        occurred_us = (self._wall_ms - rng.choice(_AGES_MS)) * 1_000 + rng.randrange(1_000)
        event = model.Event(
            account, event_id, occurred_us, self._home(account), failed=rng.random() < 0.06,
            feature=rng.choice(("", "", "chat")), model=rng.choice(("", "m1")),
        )  # fmt: skip
        if rng.random() < 0.5:
            event = replace(event, meter=rng.choice(("calls", "images", "premium_calls", "nonsense")))
            event = replace(event, quantity=rng.choice(("1", "2", "0.5", "0", "12.000000001")))
        else:
            event = replace(event, input_tokens=rng.choice((None, 10, 700)), output_tokens=rng.choice((None, 5)))
        record = record_of(event)
        self._sent.append(record)
        return record

    def _again(self) -> Record:
        """A producer that heard nothing sends once more; mostly soon after."""
        if not self._sent:
            return self._fresh()
        return self._rng.choice(self._sent[-6:] if self._rng.random() < 0.7 else self._sent)

    def _conflict(self) -> Record:
        record = self._again()
        assert isinstance(record.note, model.Event)
        return record_of(replace(record.note, quantity="77"))

    def _astray(self) -> Record:
        record = self._again()
        return replace(record, partition=(record.partition + 1) % self._partition_count)

    def _flawed(self) -> Record:
        rng = self._rng
        account = rng.choice(_ACCOUNTS)
        home, key = self._home(account), account.encode()
        event = UsageEvent("flawed", self._wall_ms * 1_000, account.split("/", 1)[1], meter="calls")
        return rng.choice(
            (
                Record(home, key, b"garbage", model.Flawed("unreadable", None, under=account), (("h", b"v"),)),
                Record(home, key, None, model.Flawed("unreadable", None, under=account)),
                Record(home, None, encode(event), model.Flawed("key_mismatch", "key")),
                Record(
                    home,
                    key,
                    encode_usage_event(UsageEvent("other", 0, "mallory", meter="calls")),
                    model.Flawed("key_mismatch", "customer_id", account, under=account),
                ),
                Record(
                    home,
                    key,
                    encode_usage_event(replace_quantity(event, "-1")),
                    model.Flawed("invalid_field", "quantity", account, "flawed", account),
                ),
            )
        )

    def _strange(self) -> Record:
        """What is no usage event: forged commands, a second genesis, somebody else's tick."""
        rng = self._rng
        partition = rng.randrange(self._partition_count)
        command = Command("call_begin", "simulated", b"r" * 16, self._wall_ms, b"", "node-1", b"")
        return rng.choice(
            (
                Record(partition, b"acme/alice", encode(command), model.Unsigned("call_begin")),
                Record(
                    partition, None, encode(GenesisRecord("other", 9, 7, b"x" * 32)), model.Genesis("other", 9, 7, b"")
                ),
                Record(partition, None, encode(Tick(self._wall_ms)), model.Tick()),
            )
        )

    def _poison(self) -> Record:
        record = self._fresh()
        self._sent.remove(record)
        assert isinstance(record.note, model.Event)
        self._id_count += 1
        event = replace(record.note, event_id=f"{self._rng.choice(POISONS)}{self._id_count}")
        return replace(record_of(event), note=model.Poison(event))

    def _order(self) -> Record:
        """Orders that nobody waits for: about accounts, and about records that are long folded or not there yet."""
        rng = self._rng
        account = rng.choice(_ACCOUNTS)
        home, number = self._home(account), self._wall_ms + rng.randrange(4)
        partition = home if rng.random() < 0.8 else rng.randrange(self._partition_count)
        forged = rng.random() < 0.2
        kind = rng.choice(
            ("quarantine_account", "release_account", "release_account", "resume", "quarantine_record", "time")
        )
        if kind.endswith("account"):
            return order_record(partition, model.Order(kind, number, account=account, home=home, forged=forged))
        offset = rng.randrange(30)
        last = offset + rng.randrange(10) if kind == "time" else -1
        return order_record(partition, model.Order(kind, number, home, offset, last, forged=forged))

    def _home(self, account: str) -> int:
        return partition_of(account.encode(), self._partition_count)

    # Trouble

    def _trouble(self) -> Action:
        rng = self._rng
        kinds: tuple[tuple[Callable[[], Action], int], ...] = (
            (self._away, 6),
            (self._pause, 3),
            (lambda: CutOff(self._node(), rng.uniform(0.5, 12)), 4),
            (Rebalance, 3),
            (lambda: BrokerClock(rng.choice(_CLOCKS_MS)), 2),
            (lambda: WorkerClock(self._node(), rng.choice(_CLOCKS_MS[:-1])), 1),
            (self._leap, 4),
            (lambda: Compact(rng.random()), 3),
            (lambda: ForgetGroup(rng.random() < 0.5), 2),
        )
        return rng.choices([kind for kind, _ in kinds], [weight for _, weight in kinds])[0]()

    def _absence(self, at_s: float) -> Action:
        """A worker is away while weeks pass, and tombstones go that it never saw."""
        self._wall_ms += 15 * DAY_MS
        self._actions.append((at_s + 3, Leap(15 * DAY_MS)))
        return Away(self._node(), 6.0)

    def _node(self) -> int:
        return self._rng.randrange(self._node_count)

    def _away(self) -> Away:
        rng = self._rng
        seconds = rng.choice((0.1, 1.0, 4.0, 15.0)) * rng.uniform(0.5, 1.5)
        how = rng.choice(("killed", "killed", "left"))
        disk = rng.random()
        if disk < 0.3:
            return Away(self._node(), seconds, "killed", tuple(rng.randrange(4) for _ in range(6)))
        return Away(self._node(), seconds, how, wiped=disk > 0.85)

    def _pause(self) -> Pause:
        return Pause(self._node(), self._rng.choice((0.5, 2.0, 5.0, 12.0)))

    def _leap(self) -> Leap:
        leap = Leap(self._rng.choice(_LEAPS_MS))
        self._wall_ms += leap.ms
        return leap

    def _fault(self) -> Fault:
        rng = self._rng
        kind, count = rng.choice(_POINTS)
        is_request = not kind.startswith(("gap", "writing", "beginning"))
        effect = rng.choice(_OF_REQUESTS if is_request else _OF_POINTS)
        lasts = effect in (Effect.PAUSED, Effect.CUT_OFF, Effect.LATE)
        return Fault(kind, rng.randrange(count) + 1, effect, rng.choice((0.3, 2.0, 5.0, 9.0)) if lasts else 0.0)


POISONS = ("poison-decide-", "poison-evolve-")
"""What the ids of events begin with on which the rules raise: before they decided, or with half of it applied."""


def order_record(partition: int, note: model.Order) -> Record:
    """The order on a partition's log, signed by the operator or by a stranger."""
    position = Position(GENESIS.incarnation, note.partition, note.offset)
    order: Order
    match note.kind:
        case "quarantine_account":
            order = QuarantineAccount(str(note.account), position if note.offset >= 0 else None)
        case "release_account":
            order = ReleaseAccount(str(note.account))
        case "quarantine_record":
            order = QuarantineRecord(position)
        case "time":
            order = Time(position, note.last_offset)
        case _:
            order = Resume(position)
    by = STRANGERS_KEY if note.forged else OPERATOR_KEY
    return Record(partition, key_of(order), encode(signed(order, note.number, GENESIS.deployment_id, by)), note)


def record_of(event: model.Event) -> Record:
    """The event on its own partition's log."""
    return Record(event.home, event.account.encode(), _value_of(event), event)


def replace_quantity(event: UsageEvent, quantity: str) -> UsageEvent:
    return UsageEvent(event.event_id, event.occurred_at_us, event.customer_id, meter=event.meter, quantity=quantity)


@lru_cache(maxsize=4_096)
def _value_of(event: model.Event) -> bytes:
    """The event as its producer would send it."""
    return encode_usage_event(
        UsageEvent(
            event.event_id,
            event.occurred_at_us,
            event.account.split("/", 1)[1],
            meter=event.meter,
            event_type=None if event.meter is not None else "llm.call",
            quantity=event.quantity,
            status="failed" if event.failed else "succeeded",
            feature=event.feature or None,
            model=event.model or None,
            input_tokens=event.input_tokens,
            output_tokens=event.output_tokens,
        )
    )

"""The one function that decides every record, and the one that applies what it decided.

    decide(state, catalog, logged, position) -> facts        evolve(state, catalog, fact, position, log_ms)

Neither reads a clock, a random number or anything but its arguments; `decide` only reads the state. Whoever folds the same
log therefore gets the same facts, byte for byte. Who folds calls them by `billing.step`, which knows log time, orders and
behaviour versions.
"""

from typing import assert_never

import msgspec

from billing.accounts.types import parse_account
from billing.catalog.types import Catalog
from billing.errors import InvalidField, NoGenesis
from billing.facts import (
    AccountOpened,
    AccountSnapshot,
    BehaviourSwitched,
    CommandRefused,
    EventCounted,
    EventDuplicate,
    EventRejected,
    Fact,
    GenesisApplied,
    GenesisRefused,
    LateApproved,
    LateReceived,
    LateRejected,
    LateRepeated,
    LateSnapshot,
    OrderApplied,
    OrderHonoured,
    OrderRepeated,
    PairsCapped,
    Reason,
    SnapshotBegun,
    SnapshotDone,
    StripeHourClosed,
    Ticked,
    TotalClosed,
)
from billing.late.fold import decide_late, evolve_approved, evolve_late_rejected, evolve_received
from billing.late.types import LATE_TYPES
from billing.metering.fold import check_duplicate, decide_usage, evolve_counted, evolve_opened, evolve_rejected
from billing.orders.fold import (
    accounts_aside,
    decide_order,
    event_aside,
    evolve_behaviour,
    evolve_honoured,
    evolve_order,
    is_aside,
)
from billing.orders.types import OPERATOR
from billing.periods import DAY_S, HOUR_S
from billing.quantities import plain
from billing.records import Command, Genesis, Logged, Position, Tick, Unreadable, UsageEvent
from billing.routing import partition_of
from billing.snapshots import cursor_behind, decide_snapshot, is_snapshot_due, month_start_s
from billing.state import PairsKey, PartitionRow, State, StripeHourKey, TotalKey

__all__ = ["DUE_PER_TICK_MAX", "STRIPE_HOUR_OPEN_S", "continues", "decide", "evolve", "is_due", "is_open"]

DUE_PER_TICK_MAX = 500
"""What one tick closes at most, so that a day's end does not hold up the events behind it."""
STRIPE_HOUR_OPEN_S = 35 * DAY_S
"""How long Stripe takes usage for an hour (meter events: 35 days back)."""


def decide(state: State, catalog: Catalog, logged: Logged, position: Position) -> list[Fact]:
    """What the record causes: at least one fact. Raises NoGenesis where the partition belongs to nobody yet."""
    record = logged.record
    if isinstance(record, Genesis):
        return [_decide_genesis(state, record, position)]
    if state.partition is None:
        message = (
            f"partition {position.partition} begins without a genesis; make its topics with: meterlog topics create"
        )
        raise NoGenesis(message)
    match record:
        case UsageEvent():
            return _decide_usage(state, catalog, record, logged, position)
        case Tick():
            return _decide_tick(state, logged.log_ms)
        case Unreadable():
            return [_decide_unreadable(state, record, logged.key)]
        case Command() if record.key_id == OPERATOR and record.type in LATE_TYPES:
            return decide_late(state, catalog, record, logged.key, position, logged.log_ms)
        case Command() if record.key_id == OPERATOR:
            return decide_order(state, record, logged.key, position)
        case Command():
            message = "no node of this deployment may sign commands yet"
            return [CommandRefused(Reason.UNSIGNED, record.type[:64], message)]
        case _:
            assert_never(record)


def evolve(state: State, catalog: Catalog, fact: Fact, position: Position, log_ms: int) -> None:
    """Apply one fact of the record at `position` to the state."""
    match fact:
        case EventCounted():
            evolve_counted(state, catalog, fact, position.ordinal, log_ms)
        case AccountOpened():
            evolve_opened(state, fact, position.ordinal, log_ms)
        case EventRejected():
            evolve_rejected(state, fact, position.ordinal, log_ms)
        case TotalClosed():
            state.totals.drop(_total_key(fact))
        case StripeHourClosed():
            state.stripe_hours.drop(_stripe_hour_key(fact))
        case GenesisApplied():
            _evolve_genesis(state, fact, log_ms)
        case Ticked():
            _drop_pairs(state, log_ms)
        case SnapshotBegun():
            _move_snapshot(state, fact.month_start_s, "")
        case AccountSnapshot() | LateSnapshot():
            _move_snapshot(state, None, cursor_behind(fact))
        case SnapshotDone():
            _move_snapshot(state, fact.month_start_s, None)
        case OrderHonoured():
            evolve_honoured(state, fact, position)
        case OrderApplied():
            evolve_order(state, fact.effect, position)
        case BehaviourSwitched():
            evolve_behaviour(state, fact.version)
        case LateReceived():
            evolve_received(state, fact, position.ordinal)
        case LateApproved():
            evolve_approved(state, fact)
        case LateRejected():
            evolve_late_rejected(state, fact)
        case EventDuplicate():
            check_duplicate(fact, position.ordinal)
        case PairsCapped() | GenesisRefused() | CommandRefused() | OrderRepeated() | LateRepeated():
            pass
        case _:
            assert_never(fact)


def is_due(state: State, now_ms: int) -> bool:
    """Whether a tick at `now_ms` would close anything. What is due of a quarantined account would stay as it is."""
    if state.partition is None:
        return False
    day, stripe_hour = _due_bounds(now_ms)
    aside = accounts_aside(state)
    return bool(
        is_snapshot_due(state.partition, now_ms)
        or state.totals.below(day, 1, aside)
        or state.stripe_hours.below(stripe_hour, 1, aside)
        or state.pairs.below(day, 1)
    )


def continues(row: PartitionRow, record: Genesis) -> bool:
    """Whether a log that begins with this genesis is the partition's next incarnation.

    Whoever may append to a log could append a genesis too: it says so only where a log begins, which its first record's
    position tells (`_decide_genesis`), and whoever takes a partition over sees to it that it does.
    """
    return record.incarnation == row.incarnation + 1 and (
        (record.deployment_id, record.partition_count, record.operator_public_key)
        == (row.deployment_id, row.partition_count, row.operator_public_key)
    )


def _decide_genesis(state: State, record: Genesis, position: Position) -> Fact:
    row = state.partition
    if row is not None and not (position.incarnation > row.incarnation and continues(row, record)):
        return GenesisRefused(f"the partition already belongs to deployment {row.deployment_id}")
    return GenesisApplied(record.deployment_id, record.incarnation, record.partition_count, record.operator_public_key)


def _evolve_genesis(state: State, fact: GenesisApplied, log_ms: int) -> None:
    """What orders said of offsets goes with the log that those were of; what they said of accounts and rules stays."""
    before = state.partition
    if before is not None:
        state.partition = msgspec.structs.replace(before, incarnation=fact.incarnation, still=(), honoured=())
        return
    state.partition = PartitionRow(
        fact.deployment_id,
        fact.incarnation,
        fact.partition_count,
        fact.operator_public_key,
        snapshot_month_s=month_start_s(log_ms),  # there is nothing before it to be written down
    )


def _decide_usage(state: State, catalog: Catalog, event: UsageEvent, logged: Logged, position: Position) -> list[Fact]:
    assert state.partition is not None, "the caller has asked"
    try:
        name = parse_account(logged.key)
    except InvalidField as exc:
        return [EventRejected(Reason.KEY_MISMATCH, exc.field, exc.message, None, None, None)]
    assert logged.key is not None, "parse_account refuses a record without a key"
    account = logged.key.decode()
    if is_aside(state, account):
        return [event_aside(account, event.event_id)]
    home = partition_of(logged.key, state.partition.partition_count)
    if home != position.partition:
        message = (
            f"the key belongs on partition {home}; use the murmur2 partitioner (librdkafka: partitioner=murmur2_random)"
        )
        return [EventRejected(Reason.MISROUTED, "key", message, account, None, None)]
    if event.customer_id != name.customer_id:
        message = f"the key names customer {name.customer_id[:48]!a}, the event {event.customer_id[:48]!a}"
        return [EventRejected(Reason.KEY_MISMATCH, "customer_id", message, account, None, None)]
    return decide_usage(state, catalog, event, account, logged.log_ms)


def _decide_unreadable(state: State, record: Unreadable, key: bytes | None) -> Fact:
    """Bytes under a quarantined account's key are its record, whatever they are."""
    if key is not None and is_aside(state, account := key.decode("utf-8", "replace")):
        return event_aside(account, None)
    return EventRejected(Reason.UNREADABLE, None, record.detail, None, None, None)


def _decide_tick(state: State, log_ms: int) -> list[Fact]:
    """What is due, in the order of its time: at most DUE_PER_TICK_MAX facts, and whether more is left."""
    day, stripe_hour = _due_bounds(log_ms)
    aside = accounts_aside(state)
    totals = state.totals.below(day, DUE_PER_TICK_MAX + 1, aside)
    hours = state.stripe_hours.below(stripe_hour, DUE_PER_TICK_MAX + 1, aside)
    closing: list[tuple[int, Fact]] = [
        (
            (key.booking_day + 1) * DAY_S,
            _total_closed(key, total.quantity_nano, total.event_count, total.digest, total.version_offset),
        )
        for key, total in totals
    ]
    closing += [
        (
            (key.hour + 1) * HOUR_S + STRIPE_HOUR_OPEN_S,
            StripeHourClosed(
                key.account,
                key.stripe_customer,
                key.stripe_event_name,
                key.hour,
                plain(hour.quantity_nano),
                hour.version_offset,
            ),
        )
        for key, hour in hours
    ]
    closing.sort(key=lambda item: item[0])  # stable: totals before Stripe hours, each in key order
    earlier_count, snapshot = _snapshot_facts(state, log_ms, closing)
    room = DUE_PER_TICK_MAX - sum(isinstance(fact, (AccountSnapshot, LateSnapshot)) for fact in snapshot)
    is_left = bool(snapshot) and not isinstance(snapshot[-1], SnapshotDone)
    due = [fact for _, fact in closing[:room]]
    return [
        Ticked(more=len(closing) > room or is_left),
        *due[:earlier_count],
        *snapshot,
        *due[earlier_count:],
    ]


def _snapshot_facts(state: State, log_ms: int, closing: list[tuple[int, Fact]]) -> tuple[int, list[Fact]]:
    """How many of the closing rows are due before the month's snapshot, and what of that has room behind them."""
    assert state.partition is not None, "the caller has asked"
    if not is_snapshot_due(state.partition, log_ms):
        return 0, []
    month_s = month_start_s(log_ms)
    earlier_count = sum(due_s <= month_s for due_s, _ in closing)
    if earlier_count >= DUE_PER_TICK_MAX:
        return DUE_PER_TICK_MAX, []
    return earlier_count, decide_snapshot(state, log_ms, DUE_PER_TICK_MAX - earlier_count)


def _move_snapshot(state: State, month_s: int | None, cursor: str | None) -> None:
    row = state.partition
    assert row is not None, "a tick needs a genesis"
    month_s = row.snapshot_month_s if month_s is None else month_s
    state.partition = msgspec.structs.replace(row, snapshot_month_s=month_s, snapshot_cursor=cursor)


def is_open(state: State, fact: TotalClosed | StripeHourClosed) -> bool:
    """Whether the state has the row that the fact closes; one that is built from a snapshot may not."""
    if isinstance(fact, TotalClosed):
        return state.totals.get(_total_key(fact)) is not None
    return state.stripe_hours.get(_stripe_hour_key(fact)) is not None


def _due_bounds(now_ms: int) -> tuple[int, int]:
    """The first booking day and the first Stripe hour that are still open at `now_ms`."""
    now_s = now_ms // 1_000
    return now_s // DAY_S, (now_s - STRIPE_HOUR_OPEN_S) // HOUR_S


def _drop_pairs(state: State, log_ms: int) -> None:
    """Yesterday's pairs bind nobody any more; without a fact, since no answer depends on them."""
    day, _ = _due_bounds(log_ms)
    for key, _row in state.pairs.below(day, DUE_PER_TICK_MAX):
        state.pairs.drop(PairsKey(*key))


def _total_key(fact: TotalClosed) -> TotalKey:
    return TotalKey(
        fact.booking_day, fact.account, fact.billing_start_s, fact.meter, fact.feature, fact.model, fact.hour
    )


def _stripe_hour_key(fact: StripeHourClosed) -> StripeHourKey:
    return StripeHourKey(fact.hour, fact.account, fact.stripe_customer, fact.stripe_event_name)


def _total_closed(key: TotalKey, nano: int, event_count: int, digest: int, version_offset: int) -> TotalClosed:
    return TotalClosed(
        account=key.account,
        billing_start_s=key.billing_start_s,
        meter=key.meter,
        feature=key.feature,
        model=key.model,
        hour=key.hour,
        booking_day=key.booking_day,
        quantity=plain(nano),
        event_count=event_count,
        digest=digest.to_bytes(16, "little"),
        version_offset=version_offset,
    )

"""Orders: whether one is the operator's, what it lets through, and what it changes.

An order works in one of two ways. At its own place it is decided like any record (`decide_order`). And where a partition
stands before a record, an order that lies further on may let that record through (`honoured_by`): the record's first fact
then says so, and holds the order, so that the ledger alone is enough to fold again. When the fold comes to such an order
it is `OrderRepeated`.
"""

from typing import Final, NamedTuple, assert_never

import msgspec

from billing.accounts.types import parse_account
from billing.errors import InvalidField, NotHonoured
from billing.facts import (
    BehaviourSwitched,
    CommandRefused,
    EventRejected,
    Fact,
    GenesisRefused,
    OrderApplied,
    OrderEffect,
    OrderHonoured,
    OrderRepeated,
    Reason,
)
from billing.orders.types import (
    OPERATOR,
    Order,
    QuarantineAccount,
    QuarantineRecord,
    ReleaseAccount,
    Resume,
    SwitchBehaviour,
    Time,
    decode_order,
    order_type,
)
from billing.records import Command, Genesis, Position, Record, Tick, Unreadable, UsageEvent
from billing.routing import partition_of
from billing.signing import is_signed
from billing.state import PartitionRow, Quarantine, State

__all__ = [
    "Heard",
    "accounts_aside",
    "decide_order",
    "event_aside",
    "evolve_behaviour",
    "evolve_honoured",
    "evolve_order",
    "facts_aside",
    "honoured_by",
    "honoured_fact",
    "is_aside",
    "is_operators",
    "lets_through",
    "settles_time",
    "stands_still",
]

_TYPE_MAX: Final = 64
_ASIDE: Final = "set aside by the operator's order"
_QUARANTINES: Final = order_type(QuarantineAccount("", None))


class Heard(NamedTuple):
    """A command that lies further on the log than the record it may let through."""

    command: Command
    key: bytes | None
    value: bytes
    """The record as it lies on the log; it goes into the fact."""
    offset: int


def decide_order(state: State, command: Command, key: bytes | None, position: Position) -> list[Fact]:
    """What a command under the operator's name causes at its own place; always one fact."""
    partition = state.partition
    assert partition is not None, "the caller has asked"
    kind = command.type[:_TYPE_MAX]
    if not is_operators(partition, command, key):
        message = "it does not bear the signature of this deployment's operator"
        return [CommandRefused(Reason.UNSIGNED, kind, message)]
    try:
        order = decode_order(command.type, command.value)
    except InvalidField as exc:
        return [CommandRefused(Reason.INVALID_FIELD, kind, str(exc))]
    if position.offset in partition.honoured:
        return [OrderRepeated(kind)]
    match order:
        case QuarantineAccount() | ReleaseAccount():
            return [_decide_account(state, order, command, key, position)]
        case SwitchBehaviour():
            return [_decide_switch(partition, order)]
        case Time() if _is_here(order.position, position) and order.last_offset > position.offset:
            return [OrderApplied(_effect(order, command))]
        case QuarantineRecord() | Resume() | Time():
            return [_too_late(order, position)]
        case _:
            assert_never(order)


def honoured_by(state: State, heard: Heard, position: Position) -> Order:
    """The order by which the record at `position` goes through. Raises NotHonoured where it does not."""
    partition = state.partition
    if partition is None or not is_operators(partition, heard.command, heard.key):
        message = f"the order at {heard.offset} does not bear the signature of this deployment's operator"
        raise NotHonoured(message)
    try:
        order = decode_order(heard.command.type, heard.command.value)
    except InvalidField as exc:
        message = f"the order at {heard.offset}: {exc}"
        raise NotHonoured(message) from exc
    if heard.offset <= position.offset or heard.offset in partition.honoured or not _names(order, position):
        message = f"the order at {heard.offset} is not about the record at {position.offset}"
        raise NotHonoured(message)
    if isinstance(order, QuarantineAccount) and _refusal(state, order, heard.command, heard.key, position) is not None:
        message = f"the order at {heard.offset} is older than what was last ordered about {order.account}"
        raise NotHonoured(message)
    return order


def lets_through(state: State, heard: Heard, position: Position) -> bool:
    """Whether the order lets the record at `position` through."""
    try:
        honoured_by(state, heard, position)
    except NotHonoured:
        return False
    return True


def honoured_fact(order: Order, heard: Heard) -> OrderHonoured:
    """The first fact of a record that `order` lets through."""
    return OrderHonoured(heard.value, heard.key, heard.offset, _effect(order, heard.command))


def facts_aside(record: Record) -> list[Fact]:
    """What a record causes that is set aside. Nothing of it is looked at that might crash again; a tick causes nothing."""
    match record:
        case UsageEvent() | Unreadable():
            return [event_aside(None, None)]
        case Command():
            return [CommandRefused(Reason.QUARANTINED, record.type[:_TYPE_MAX], _ASIDE)]
        case Genesis():
            return [GenesisRefused(_ASIDE)]
        case Tick():
            return []
        case _:
            assert_never(record)


def event_aside(account: str | None, event_id: str | None) -> EventRejected:
    """The refusal of an event that is set aside."""
    return EventRejected(Reason.QUARANTINED, None, _ASIDE, account, event_id, None)


def is_aside(state: State, account: str) -> bool:
    """Whether the account is quarantined."""
    row = state.quarantines.get(account)
    return row is not None and row.aside


def accounts_aside(state: State) -> frozenset[str]:
    """All accounts that are quarantined."""
    return frozenset([account for account, row in state.quarantines.items() if row.aside])


def settles_time(heard: Heard) -> bool:
    """Whether an order that lets a record through also says that its time is right, or does not count."""
    return heard.command.type != _QUARANTINES


def stands_still(partition: PartitionRow, offset: int) -> bool:
    """Whether log time stands at `offset` by an order that was given before."""
    return any(first <= offset <= last for first, last in partition.still)


def evolve_honoured(state: State, fact: OrderHonoured, position: Position) -> None:
    partition = state.partition
    assert partition is not None, "an order needs an operator, and the operator a genesis"
    honoured = (*[offset for offset in partition.honoured if offset >= position.offset], fact.offset)
    state.partition = _with(partition, honoured=honoured)
    evolve_order(state, fact.effect, position)


def evolve_order(state: State, effect: OrderEffect, position: Position) -> None:
    """Apply what an order changes."""
    partition = state.partition
    assert partition is not None, "an order needs an operator, and the operator a genesis"
    if effect.account is not None:
        assert effect.number is not None, "orders about an account are numbered"
        aside = effect.kind == _QUARANTINES
        state.quarantines.put(effect.account, Quarantine(effect.number, aside))
    elif effect.first_offset is not None:
        assert effect.last_offset is not None, "a stretch has two ends"
        ordered = (effect.first_offset, effect.last_offset)
        # Once, however often anybody copies the order: a row that grew with each copy would fit its topic no more one day.
        still = [stretch for stretch in partition.still if stretch[1] > position.offset and stretch != ordered]
        state.partition = _with(partition, still=(*still, ordered))


def evolve_behaviour(state: State, version: int) -> None:
    assert state.partition is not None, "an order needs an operator, and the operator a genesis"
    state.partition = _with(state.partition, behaviour_version=version)


def is_operators(partition: PartitionRow, command: Command, key: bytes | None) -> bool:
    """Cheap questions first: to verify a signature takes 150 µs."""
    return (
        command.key_id == OPERATOR
        and command.deployment_id == partition.deployment_id
        and is_signed(partition.operator_public_key, command, key)
    )


def _names(order: Order, position: Position) -> bool:
    """Whether the order is about the record at `position`."""
    match order:
        case QuarantineRecord() | QuarantineAccount() | Resume():
            return order.position == position
        case Time():
            return _is_here(order.position, position) and order.position.offset <= position.offset <= order.last_offset
        case ReleaseAccount() | SwitchBehaviour():
            return False
        case _:
            assert_never(order)


def _is_here(named: Position, position: Position) -> bool:
    return (named.incarnation, named.partition) == (position.incarnation, position.partition)


def _decide_account(
    state: State, order: QuarantineAccount | ReleaseAccount, command: Command, key: bytes | None, position: Position
) -> Fact:
    refusal = _refusal(state, order, command, key, position)
    return OrderApplied(_effect(order, command)) if refusal is None else refusal


def _refusal(
    state: State, order: QuarantineAccount | ReleaseAccount, command: Command, key: bytes | None, position: Position
) -> Fact | None:
    """Why the order does nothing to its account; None when it does.

    Its age is judged by the account's last order alone. The log's clock has no say: one that runs wrong would lock the
    operator out just when an order is needed.
    """
    assert state.partition is not None, "the caller has asked"
    kind = order_type(order)
    if key is None or key != order.account.encode():
        message = f"key: the record's key is not {order.account[:48]!a}, whom the order is about"
        return CommandRefused(Reason.KEY_MISMATCH, kind, message)
    try:
        parse_account(key)
    except InvalidField as exc:
        return CommandRefused(Reason.INVALID_FIELD, kind, f"account: {exc.message}")
    home = partition_of(key, state.partition.partition_count)
    if home != position.partition:
        return CommandRefused(Reason.MISROUTED, kind, f"the account belongs on partition {home}")
    row = state.quarantines.get(order.account)
    if row is None or command.issued_at_ms > row.number:
        return None
    if command.issued_at_ms == row.number:
        return OrderRepeated(kind)
    message = f"issued_at: a later order about the account, of {row.number} ms, holds; give the order anew"
    return CommandRefused(Reason.STALE, kind, message)


def _decide_switch(partition: PartitionRow, order: SwitchBehaviour) -> Fact:
    present = partition.behaviour_version
    if order.version == present + 1:
        return BehaviourSwitched(order.version)
    if order.version <= present:
        return OrderRepeated(order_type(order))
    message = f"version: {order.version} does not follow {present}; switch to {present + 1}"
    return CommandRefused(Reason.INVALID_FIELD, order_type(order), message)


def _too_late(order: QuarantineRecord | Resume | Time, position: Position) -> Fact:
    """An order that names a position works while the partition stands there, from further on: here it is just a record."""
    kind, named = order_type(order), order.position
    if not _is_here(named, position):
        message = f"position: it names partition {named.partition} of incarnation {named.incarnation}, which is another"
        return CommandRefused(Reason.MISROUTED, kind, message)
    if named.offset >= position.offset:
        message = f"position: {named.offset} is not reached yet; give the order when the partition stands there"
    else:
        message = f"position: {named.offset} is folded, and the partition did not stand there"
    return CommandRefused(Reason.INVALID_FIELD, kind, message)


def _effect(order: Order, command: Command) -> OrderEffect:
    kind = order_type(order)
    match order:
        case QuarantineAccount() | ReleaseAccount():
            return OrderEffect(kind, account=order.account, number=command.issued_at_ms)
        case Time():
            return OrderEffect(kind, first_offset=order.position.offset, last_offset=order.last_offset)
        case QuarantineRecord() | Resume() | SwitchBehaviour():
            return OrderEffect(kind)
        case _:
            assert_never(order)


def _with(
    row: PartitionRow,
    *,
    behaviour_version: int | None = None,
    still: tuple[tuple[int, int], ...] | None = None,
    honoured: tuple[int, ...] | None = None,
) -> PartitionRow:
    return msgspec.structs.replace(
        row,
        behaviour_version=row.behaviour_version if behaviour_version is None else behaviour_version,
        still=row.still if still is None else still,
        honoured=row.honoured if honoured is None else honoured,
    )

"""One record of the log: the order that lets it through, its log time, its facts, and what they change.

Whoever folds calls this and nothing else: the worker, the audit, a replay, a simulator. What differs is where the order
comes from that lets a record through: a worker hears it further on the log, everyone after it reads it in the record's first
fact.
"""

from typing import Final

from billing.behaviours import Behaviours, Rules
from billing.catalog.types import Catalog
from billing.errors import CannotFold, RecordCrashed, TimeJumped, UnknownBehaviour
from billing.facts import Fact
from billing.orders.fold import Heard, facts_aside, honoured_by, honoured_fact, stands_still
from billing.orders.types import Order, QuarantineRecord, Resume, Time
from billing.periods import DAY_S
from billing.records import Logged, Position, Record
from billing.state import PartitionRow, State

__all__ = ["JUMP_MS_MAX", "rules_of", "step"]

JUMP_MS_MAX: Final = 40 * DAY_S * 1_000
"""How far one record may carry log time. A broker's clock that jumps would close every total and forget every id; a stack
that was off for longer than any window is rare enough to be asked about."""


def step(
    state: State,
    behaviours: Behaviours,
    catalog: Catalog,
    record: Record,
    key: bytes | None,
    append_ms: int,
    position: Position,
    heard: Heard | None = None,
) -> list[Fact]:
    """Fold one record: the facts that it causes, in order; the state holds what they change, log time included.

    `heard`: the order that lets the record through, where one must. Raises `Stands` where the record must not be folded:
    UnknownBehaviour, TimeJumped, or RecordCrashed; only of the last may the state hold a part, and it says so. Raises
    NotHonoured where `heard` is no order that lets this record through. CannotFold and MemoryError are not the
    record's fault, and pass as they are.
    """
    partition = state.partition
    rules = rules_of(behaviours, partition)
    order = None if heard is None else honoured_by(state, heard, position)
    log_ms = _log_ms(state.log_ms, partition, append_ms, position.offset, order)
    honoured: list[Fact] = []
    touched = False
    try:
        if order is not None and heard is not None:
            touched = True
            honoured.append(honoured_fact(order, heard))
            rules.evolve(state, catalog, honoured[0], position, log_ms)
        if isinstance(order, QuarantineRecord):
            caused = facts_aside(record)
        else:
            caused = rules.decide(state, catalog, Logged(record, key, log_ms), position)
        touched = True
        for fact in caused:
            rules.evolve(state, catalog, fact, position, log_ms)
    except (CannotFold, MemoryError):
        raise
    except Exception as exc:
        raise RecordCrashed(exc, half_applied=touched) from exc
    state.log_ms = log_ms
    return honoured + caused if honoured else caused


def rules_of(behaviours: Behaviours, partition: PartitionRow | None) -> Rules:
    """The rules by which the partition's next record is decided. Raises UnknownBehaviour."""
    version = 1 if partition is None else partition.behaviour_version
    rules = behaviours.get(version)
    if rules is None:
        message = f"the partition was switched to behaviour version {version}, which this code does not know"
        raise UnknownBehaviour(message)
    return rules


def _log_ms(previous_ms: int, partition: PartitionRow | None, append_ms: int, offset: int, order: Order | None) -> int:
    """Log time never goes back, and does not jump unless it is asked for. Raises TimeJumped.

    It stands where an operator's order says so: over a `time` order's offsets, and at a record that is set aside.
    """
    if append_ms <= previous_ms:
        return previous_ms
    if isinstance(order, (Time, QuarantineRecord)) or (
        partition is not None and partition.still and stands_still(partition, offset)
    ):
        return previous_ms
    jump_ms = append_ms - previous_ms
    if partition is not None and jump_ms > JUMP_MS_MAX and not isinstance(order, Resume):
        days = jump_ms // (DAY_S * 1_000)
        message = f"its append time carries log time {days} days on; at most 40 pass without an order"
        raise TimeJumped(message)
    return append_ms

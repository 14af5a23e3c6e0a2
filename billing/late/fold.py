"""Late usage: an event older than the window waits for a person, and is counted where that person's approval lies.

Each id is decided once, for ever: its row stays, small, after the event in it has gone. A decision is worth something for ten
minutes only: whoever appends one again that was refused, when it would not be refused any more, changes nothing.
"""

from typing import Final, assert_never

import msgspec

from billing.accounts.types import parse_account
from billing.catalog.types import Catalog
from billing.errors import InvalidField
from billing.facts import (
    CommandRefused,
    EventCounted,
    EventDuplicate,
    EventRejected,
    Fact,
    LateApproved,
    LateReceived,
    LateRejected,
    LateRepeated,
    Reason,
)
from billing.late.types import Approve, LateRequest, LateUsage, Reject, decode_late
from billing.metering.digest import payload_digest
from billing.metering.fold import decide_counting, met_before
from billing.metering.rules import check_fields, check_time
from billing.orders.fold import is_aside, is_operators
from billing.records import Command, Position, UsageEvent, name_of_ordinal
from billing.routing import partition_of
from billing.state import Late, LateKey, State

__all__ = ["decide_late", "evolve_approved", "evolve_late_rejected", "evolve_received"]

_NOT_LATE: Final = "occurred_at is not older than the window; send it like any other event, without --late"
_CONFLICT: Final = "give each event an id of its own"
_DECISION_AGE_MS_MAX: Final = 10 * 60_000
"""Between a decision's signature and its log time: clocks that are kept, and a broker that is away for a while."""


class _Refused(Exception):
    """Raised where the request has no effect."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


def decide_late(
    state: State, catalog: Catalog, command: Command, key: bytes | None, position: Position, log_ms: int
) -> list[Fact]:
    """What a command of one of LATE_TYPES causes: at least one fact."""
    try:
        account = _account_of(state, command, key, position)
        request = decode_late(command.type, command.value)
        if not isinstance(request, LateUsage):
            _refuse_old(command.issued_at_ms, log_ms)
        return _decide(state, catalog, request, account, log_ms)
    except _Refused as exc:
        return [CommandRefused(exc.reason, command.type, exc.message)]
    except InvalidField as exc:
        return [CommandRefused(Reason.INVALID_FIELD, command.type, str(exc))]


def evolve_received(state: State, fact: LateReceived, ordinal: int) -> None:
    state.late.put(LateKey(fact.account, fact.event.event_id), Late(ordinal, fact.payload_digest, fact.event))


def evolve_approved(state: State, fact: LateApproved) -> None:
    """The event goes, its id stays. What it counts is the fact behind this one."""
    key = LateKey(fact.account, fact.event.event_id)
    state.late.put(key, Late(fact.received_offset, fact.payload_digest, None, approved=True))


def evolve_late_rejected(state: State, fact: LateRejected) -> None:
    state.late.put(LateKey(fact.account, fact.event_id), Late(fact.received_offset, fact.payload_digest, None))


def _account_of(state: State, command: Command, key: bytes | None, position: Position) -> str:
    """Whose usage it is about, once it is known that the operator says so, and here."""
    partition = state.partition
    assert partition is not None, "the caller has asked"
    if not is_operators(partition, command, key):
        raise _Refused(Reason.UNSIGNED, "it does not bear the signature of this deployment's operator")
    try:
        parse_account(key)
    except InvalidField as exc:
        raise _Refused(Reason.KEY_MISMATCH, exc.message) from exc
    assert key is not None, "parse_account refuses a record without a key"
    home = partition_of(key, partition.partition_count)
    if home != position.partition:
        raise _Refused(Reason.MISROUTED, f"the key belongs on partition {home}; use the murmur2 partitioner")
    account = key.decode()
    if is_aside(state, account):
        raise _Refused(Reason.QUARANTINED, "the account is set aside by the operator's order")
    return account


def _refuse_old(issued_at_ms: int, log_ms: int) -> None:
    """Anybody who may append usage can append an old approval again, say of an id whose last count is forgotten by now."""
    apart_ms = log_ms - issued_at_ms
    if abs(apart_ms) > _DECISION_AGE_MS_MAX:
        when = "before" if apart_ms > 0 else "after"
        message = (
            f"issued_at: it was signed {abs(apart_ms) // 1_000} s {when} the log's time; at most"
            f" {_DECISION_AGE_MS_MAX // 1_000} s are taken; see to the clocks, and decide again"
        )
        raise _Refused(Reason.STALE, message)


def _decide(state: State, catalog: Catalog, request: LateRequest, account: str, log_ms: int) -> list[Fact]:
    match request:
        case LateUsage():
            return [_decide_received(state, catalog, request.event, account, log_ms)]
        case Approve():
            return _decide_approved(state, catalog, account, request.event_id, log_ms)
        case Reject():
            row, _ = _waiting(state, account, request.event_id)
            return [LateRejected(account, request.event_id, row.payload_digest, row.received_offset)]
        case _:
            assert_never(request)


def _decide_received(state: State, catalog: Catalog, event: UsageEvent, account: str, log_ms: int) -> Fact:
    quantity_nano = check_fields(event)
    if account.partition("/")[2] != event.customer_id:
        raise _Refused(Reason.KEY_MISMATCH, f"the event names customer {event.customer_id[:48]!a}")
    refusal = check_time(event.occurred_at_us, log_ms)
    if refusal is None or refusal[0] is not Reason.TOO_OLD:
        raise _Refused(*(refusal or (Reason.INVALID_FIELD, _NOT_LATE)))
    digest = payload_digest(event)
    known = state.late.get(LateKey(account, event.event_id))
    if known is not None:
        if known.payload_digest != digest:
            message = (
                f"the id was already used at {name_of_ordinal(known.received_offset)} with other content; {_CONFLICT}"
            )
            raise _Refused(Reason.ID_CONFLICT, message)
        return LateRepeated(account, event.event_id, known.received_offset)
    met = met_before(state, account, event, digest, log_ms)
    if isinstance(met, EventDuplicate):
        return LateRepeated(account, event.event_id, met.first_offset)
    _refuse_rejected([met] if met else decide_counting(state, catalog, event, quantity_nano, account, digest, log_ms))
    return LateReceived(account, digest, event)


def _decide_approved(state: State, catalog: Catalog, account: str, event_id: str, log_ms: int) -> list[Fact]:
    row, event = _waiting(state, account, event_id)
    if met := met_before(state, account, event, row.payload_digest, log_ms):
        _refuse_rejected([met])
        message = "the id was counted meanwhile; reject this one"
        raise _Refused(Reason.ID_CONFLICT, message)
    counting = decide_counting(state, catalog, event, check_fields(event), account, row.payload_digest, log_ms)
    _refuse_rejected(counting)
    untold = [entry for fact in counting if isinstance(fact, EventCounted) for entry in fact.entries]
    approved = LateApproved(
        account,
        row.payload_digest,
        event,
        row.received_offset,
        tuple(entry for entry in untold if entry.stripe_event_name is not None),
    )
    return [approved, *map(_without_stripe, counting)]


def _waiting(state: State, account: str, event_id: str) -> tuple[Late, UsageEvent]:
    row = state.late.get(LateKey(account, event_id))
    if row is None:
        raise _Refused(Reason.STALE, f"no late event {event_id[:48]!a} of this customer waits")
    if row.event is None:
        outcome = "approved" if row.approved else "rejected"
        raise _Refused(Reason.STALE, f"the late event {event_id[:48]!a} was {outcome} before")
    return row, row.event


def _refuse_rejected(facts: list[Fact]) -> None:
    """What would keep a usage event from being counted keeps a late one out, too."""
    for fact in facts:
        if isinstance(fact, EventRejected):
            raise _Refused(fact.reason, fact.message)


def _without_stripe(fact: Fact) -> Fact:
    """Stripe takes usage of the past 35 days: an hour's total that is told later, or again without the rest of it, is wrong."""
    if not isinstance(fact, EventCounted):
        return fact
    entries = tuple(msgspec.structs.replace(entry, stripe_event_name=None) for entry in fact.entries)
    return msgspec.structs.replace(fact, entries=entries)

"""Monthly snapshots: what is kept for ever as facts, so that a partition can be folded again from a month's start on.

At the first tick of a new UTC month the fold begins one, and takes it as far as a tick's limit lets it; the next tick goes on.
Accounts' rows and late events' are written down: every other row that a decision can see is made by the facts of the weeks
before, from `SnapshotBegun.since_ms` on. A row that is made meanwhile is made by a fact of its own.
"""

from typing import Final

from billing.facts import AccountSnapshot, Fact, LateSnapshot, SnapshotBegun, SnapshotDone
from billing.periods import DAY_S, HOUR_S, PeriodKind, period_at
from billing.quantities import nano_of, plain
from billing.state import Account, Counter, Late, LateKey, PartitionRow, Quarantine, State

__all__ = [
    "REBUILT_S",
    "begin_rebuilt",
    "cursor_behind",
    "decide_snapshot",
    "is_snapshot_due",
    "month_start_s",
    "row_of",
]

REBUILT_S: Final = 36 * DAY_S
"""How far before its month a snapshot needs the ledger, so that every event id that counts (35 days), every total and every
hour that Stripe still takes usage for (35 days and an hour, by events that may be 5 minutes ahead) is made whole again."""


_ACCOUNT: Final = "a"
_LATE: Final = "l"


def month_start_s(log_ms: int) -> int:
    """The first moment of log time's UTC month, in seconds since the epoch."""
    return period_at(PeriodKind.MONTH, log_ms // 1_000).start_s


def is_snapshot_due(row: PartitionRow, log_ms: int) -> bool:
    """Whether a tick at that time would begin a snapshot, or go on with one."""
    return row.snapshot_cursor is not None or month_start_s(log_ms) > row.snapshot_month_s


def decide_snapshot(state: State, log_ms: int, limit: int) -> list[Fact]:
    """The snapshot's next facts, with at most `limit` rows (at least one); the last is SnapshotDone when it is whole.

    One that a new month finds unfinished is left as it is, and that month's begins.
    """
    row = state.partition
    assert row is not None, "the caller has asked"
    month_s = month_start_s(log_ms)
    is_new = month_s > row.snapshot_month_s
    rows = _rows_after(state, "" if is_new else row.snapshot_cursor or "", limit + 1)
    facts: list[Fact] = [_begun(state, row, month_s, log_ms)] if is_new else []
    facts += rows[:limit]
    if len(rows) <= limit:
        facts.append(SnapshotDone(month_s))
    return facts


def cursor_behind(fact: AccountSnapshot | LateSnapshot) -> str:
    """How far a snapshot is with this fact: a letter for the kind of row, and the row's key."""
    if isinstance(fact, AccountSnapshot):
        return _ACCOUNT + fact.account
    return f"{_LATE}{fact.account}\0{fact.event_id}"  # no name on the log holds a zero


def row_of(state: State, fact: AccountSnapshot | LateSnapshot) -> None:
    """Put the row that the fact wrote down, in a state that is built from a snapshot."""
    if isinstance(fact, AccountSnapshot):
        state.accounts.put(fact.account, _account_of(fact))
    else:
        late = Late(fact.received_offset, fact.payload_digest, fact.event, fact.approved)
        state.late.put(LateKey(fact.account, fact.event_id), late)


def _rows_after(state: State, cursor: str, limit: int) -> list[AccountSnapshot | LateSnapshot]:
    """The next rows in their order: accounts, then late events, which are kept for ever as well."""
    rows: list[AccountSnapshot | LateSnapshot] = []
    if not cursor.startswith(_LATE):
        rows += [_snapshot(name, account) for name, account in state.accounts.after(cursor[1:] or None, limit)]
        cursor = ""
    if len(rows) < limit:
        key = LateKey(*cursor[1:].split("\0")) if cursor else None
        rows += [_late_snapshot(key, late) for key, late in state.late.after(key, limit - len(rows))]
    return rows


def begin_rebuilt(state: State, fact: SnapshotBegun) -> None:
    """Give a state that is built from a snapshot what the partition was when it began."""
    state.partition = PartitionRow(
        fact.deployment_id,
        fact.incarnation,
        fact.partition_count,
        fact.operator_public_key,
        fact.behaviour_version,
        fact.still,
        fact.honoured,
        fact.month_start_s,
        "",
    )
    for account, number, aside in fact.quarantines:
        state.quarantines.put(account, Quarantine(number, aside))


def _begun(state: State, row: PartitionRow, month_s: int, log_ms: int) -> SnapshotBegun:
    quarantines = [(account, each.number, each.aside) for account, each in state.quarantines.items()]
    return SnapshotBegun(
        month_start_s=month_s,
        since_ms=_since_s(state, month_s, log_ms) * 1_000,
        deployment_id=row.deployment_id,
        incarnation=row.incarnation,
        partition_count=row.partition_count,
        operator_public_key=row.operator_public_key,
        behaviour_version=row.behaviour_version,
        still=row.still,
        honoured=row.honoured,
        quarantines=tuple(sorted(quarantines, key=lambda item: item[0].encode())),
    )


def _since_s(state: State, month_s: int, log_ms: int) -> int:
    """From when on the ledger's facts make every row that is open now: a quarantined account's may be older than others'."""
    now_s = log_ms // 1_000
    since_s = month_s - REBUILT_S
    for total_key, _ in state.totals.below(now_s // DAY_S + 1, 1):
        since_s = min(since_s, total_key.booking_day * DAY_S)
    for hour_key, _ in state.stripe_hours.below(now_s // HOUR_S + 2, 1):
        since_s = min(since_s, (hour_key.hour - 1) * HOUR_S)  # its events may have come 5 minutes before it
    return max(since_s, 0)


def _snapshot(name: str, account: Account) -> AccountSnapshot:
    counters = sorted(account.counters.items(), key=lambda item: item[0].encode())
    return AccountSnapshot(
        account=name,
        plan=account.plan,
        opened_at_ms=account.opened_at_ms,
        stripe_customer=account.stripe_customer,
        counters=tuple([(meter, each.period_start_s, plain(each.used_nano)) for meter, each in counters]),
        applied_offset=account.applied_offset,
    )


def _late_snapshot(key: LateKey, late: Late) -> LateSnapshot:
    account, event_id = key
    return LateSnapshot(account, event_id, late.received_offset, late.payload_digest, late.event, late.approved)


def _account_of(fact: AccountSnapshot) -> Account:
    """The account's row as it was."""
    counters = {meter: Counter(start_s, nano_of(used)) for meter, start_s, used in fact.counters}
    return Account(fact.plan, fact.opened_at_ms, fact.stripe_customer, counters, fact.applied_offset)

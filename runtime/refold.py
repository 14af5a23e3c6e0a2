"""One partition folded once more, over the records that its ledger says lay on the log.

The audit and `meterlog replay` share it. It keeps what the fold's own rows keep, and no more: its memory grows with the
accounts and with 35 days of event ids, never with the log.
"""

from typing import Final, NamedTuple

from billing.behaviours import BEHAVIOURS
from billing.catalog.types import Catalog
from billing.errors import NotHonoured, RecordCrashed, TimeJumped
from billing.facts import (
    AccountOpened,
    AccountSnapshot,
    BehaviourSwitched,
    EventCounted,
    Fact,
    GenesisApplied,
    LateSnapshot,
    OrderApplied,
    OrderHonoured,
    SnapshotBegun,
    SnapshotDone,
    StripeHourClosed,
    TotalClosed,
)
from billing.fold import is_open
from billing.metering.rules import SEEN_MS
from billing.snapshots import begin_rebuilt, row_of
from billing.state import Account, MemoryFamily, MemoryState, Seen, SeenKey
from billing.step import rules_of, step
from schemas.codec import decode_record
from schemas.ledger import SourceRecord, heard_in

__all__ = ["Rebuild", "Refold", "Refolded", "SweptSeen"]

_SWEEP_EVERY: Final = 1_000
"""Records between two sweeps: the ids that may go are the oldest, so that one costs what it drops."""


class Refolded(NamedTuple):
    """What a record causes after those before it."""

    facts: tuple[Fact, ...]
    problem: str | None = None
    """Why the record may not be folded at all; then it has no facts."""


class SweptSeen(MemoryFamily[SeenKey, Seen]):
    """Event ids in the order in which they were accepted, so that those of which no decision asks any more can go."""

    def put(self, key: SeenKey, row: Seen, /) -> None:
        self.rows.pop(key, None)
        self.rows[key] = row

    def sweep(self, log_ms: int) -> None:
        """Drop the ids that count no longer at this log time."""
        expired = []
        for key, row in self.rows.items():
            if row.accepted_at_ms + SEEN_MS > log_ms:
                break
            expired.append(key)
        for key in expired:
            del self.rows[key]


class Refold:
    """The fold of one partition once more."""

    def __init__(self, catalog: Catalog) -> None:
        self.state = MemoryState()
        self._seen = self.state.seen = SweptSeen()
        self._catalog = catalog
        self._orders: dict[tuple[int, int], bytes] = {}
        """Orders that let an earlier record through, by where they are said to lie."""
        self._count = 0

    def fold(self, told: SourceRecord) -> Refolded:
        """Decide the record again, and apply what it causes. Raises UnknownBehaviour."""
        key, value, append_ms = told.source.key, told.source.value, told.source.append_ms
        incarnation, offset = told.position.incarnation, told.position.offset
        if self._orders.pop((incarnation, offset), value) != value:
            return Refolded((), "it is not the order that is said to lie here, and that let an earlier record through")
        try:
            heard = heard_in(told)
            record = decode_record(value)
            facts = step(self.state, BEHAVIOURS, self._catalog, record, key, append_ms, told.position, heard)
        except (NotHonoured, RecordCrashed, TimeJumped) as exc:
            return Refolded((), str(exc))
        if heard is not None:
            self._orders[incarnation, heard.offset] = heard.value
        self._count += 1
        if self._count % _SWEEP_EVERY == 0:
            self._seen.sweep(self.state.log_ms)
        missing = self._orders and self._passed(incarnation, offset)
        if missing:
            return Refolded((), f"no order lies at {missing}, where one is said to have let an earlier record through")
        return Refolded(tuple(facts))

    def _passed(self, incarnation: int, offset: int) -> list[int]:
        """Offsets before this record at which an order was to be found, and no record is: nobody can have heard it.

        An older log may have ended before the fold came to an order that it had heard there.
        """
        passed = [at for at in self._orders if at < (incarnation, offset)]
        for at in passed:
            del self._orders[at]
        return [order_offset for order_incarnation, order_offset in passed if order_incarnation == incarnation]


class Rebuild:
    """Brings a refold to where a month's snapshot ends, by facts alone: nothing before that is decided again.

    Give it the ledger's records from the snapshot's `since_ms` on. Rows of which it sees only a part, since they began
    before, are closed before the snapshot begins, or are written down in it.
    """

    def __init__(self, refold: Refold, catalog: Catalog, month_s: int) -> None:
        self._state = refold.state
        self._catalog = catalog
        self._month_s = month_s
        self._has_begun = False
        self._half_known: set[str] = set()
        """Accounts of which only later facts are known as yet."""
        self.is_done = False
        self.problem: str | None = None
        """Why the snapshot is none to go on from."""

    def take(self, told: SourceRecord) -> None:
        """Apply the record's facts. At the snapshot's end, or where it cannot be one, `is_done`."""
        self._state.log_ms = told.log_ms
        for fact in told.facts:
            self._take(fact, told)

    def _take(self, fact: Fact, told: SourceRecord) -> None:
        match fact:
            case SnapshotBegun():
                self._begin(fact)
            case AccountSnapshot() | LateSnapshot():
                if self._has_begun:
                    row_of(self._state, fact)
                    if isinstance(fact, AccountSnapshot):
                        self._half_known.discard(fact.account)
                    self._evolve(fact, told)
            case SnapshotDone():
                self._end(fact, told)
            case GenesisApplied() | OrderHonoured() | OrderApplied() | BehaviourSwitched():
                if self._has_begun:  # what they did before, the snapshot's first fact says
                    self._evolve(fact, told)
            case EventCounted():
                self._know(fact.account)
                self._evolve(fact, told)
            case AccountOpened():
                self._half_known.discard(fact.account)
                self._evolve(fact, told)
            case TotalClosed() | StripeHourClosed():
                if is_open(self._state, fact):
                    self._evolve(fact, told)
            case _:
                self._evolve(fact, told)

    def _evolve(self, fact: Fact, told: SourceRecord) -> None:
        rules = rules_of(BEHAVIOURS, self._state.partition)
        rules.evolve(self._state, self._catalog, fact, told.position, told.log_ms)

    def _begin(self, fact: SnapshotBegun) -> None:
        if fact.month_start_s == self._month_s:
            begin_rebuilt(self._state, fact)
            self._has_begun = True
        elif self._has_begun:
            self.problem, self.is_done = "the next month's snapshot begins before it is whole", True

    def _end(self, fact: SnapshotDone, told: SourceRecord) -> None:
        if not self._has_begun:
            return
        self._evolve(fact, told)
        self.is_done = True
        if self._half_known:
            self.problem = f"it lacks {len(self._half_known)} accounts, such as {min(self._half_known)}"

    def _know(self, account: str) -> None:
        """Have a row to which facts can be added, until the snapshot has the account's own."""
        if self._state.accounts.get(account) is None:
            self._half_known.add(account)
            self._state.accounts.put(account, Account(self._catalog.default_plan, 0, account, {}, 0))

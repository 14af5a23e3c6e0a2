"""`meterlog replay`: a partition's ledger folded again, its facts compared byte for byte with those that it holds.

Nothing here reads Kafka. The first difference ends a partition: what follows it would only be its consequence.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from billing.catalog.types import Catalog
from billing.errors import BillingError
from billing.facts import Fact, SnapshotBegun
from billing.periods import DAY_S, HOUR_S
from billing.records import Position, from_ordinal
from billing.state import StripeHourKey, TotalKey
from runtime.ledger_log import LedgerRecord
from runtime.refold import Rebuild, Refold
from schemas.ledger import SourceRecord, encode_facts
from schemas.rows import STRIPE_HOURS, TOTALS
from schemas.totals import decode_total, encode_stripe_hour, encode_total

__all__ = ["Difference", "PartitionReplay", "SnapshotUnfit", "TotalsBook", "replay_partition", "shown_fact"]

_TOTALS_KEPT_S = 39 * DAY_S
"""`usage-totals` keeps a value for 40 days: an open row that is older (its account is quarantined) may be gone there."""


class SnapshotUnfit(BillingError):
    """A month's snapshot is none to fold again from; says why."""


class Difference(NamedTuple):
    """The first place where the ledger, or a total, is not what the records cause."""

    where: str
    expected: list[Any]
    """What folding again gives: facts, decoded."""
    found: list[Any]
    problem: str | None = None
    """Why the record may not be folded at all, where it may not."""


@dataclass(slots=True)
class PartitionReplay:
    """What came of one partition."""

    partition: int
    records: int = 0
    facts: int = 0
    totals: int = 0
    """Values of `usage-totals` that were compared at their own version."""
    rebuilt: int = 0
    """Records before the end of the snapshot that it was begun from: their facts were applied, not compared."""
    first: Position | None = None
    last: Position | None = None
    difference: Difference | None = None


@dataclass(slots=True)
class TotalsBook:
    """The last value of each row on `usage-totals`, by the position of the last record in it."""

    values: dict[bytes, bytes] = field(default_factory=dict)
    by_version: dict[tuple[int, int], list[bytes]] = field(default_factory=dict)

    @classmethod
    def of(cls, values: dict[bytes, bytes]) -> "TotalsBook":
        book = cls(values)
        for key, value in values.items():
            total = decode_total(value)
            book.by_version.setdefault((total.incarnation, total.version_offset), []).append(key)
        return book


def replay_partition(
    catalog: Catalog,
    partition: int,
    ledger: Iterable[LedgerRecord],
    totals: TotalsBook,
    advance: Callable[[int], None] = lambda _: None,
    start: SnapshotBegun | None = None,
) -> PartitionReplay:
    """Fold the ledger's records again from an empty state; stop at the first difference. Raises UnknownBehaviour, LedgerGap.

    With `start`, the state is that of its month's snapshot, and what follows it is folded again. The ledger must then begin
    no later than at `since_ms` of it; raises SnapshotUnfit where it is not whole.

    `advance` is told of each record's facts, for a progress bar. `totals` must have been read after the ledger's end was
    found: values of later versions are left out.
    """
    done = PartitionReplay(partition)
    refold = Refold(catalog)
    rebuild = None if start is None else Rebuild(refold, catalog, start.month_start_s)
    for told, values in ledger:
        if start is not None and told.log_ms < start.since_ms:
            continue
        if rebuild is not None:
            rebuild.take(told)
            done.rebuilt += 1
            advance(len(values))
            rebuild = _unless_done(rebuild)
            continue
        position = told.position
        done.first, done.last = done.first or position, position
        done.difference = _fold_again(refold, told, values) or _compare_totals(refold, position, totals, done)
        if done.difference is not None:
            return done
        done.records += 1
        done.facts += len(told.facts)
        advance(len(values))
    if rebuild is not None:
        message = "it is not whole yet; wait for the next tick, or fold again from an earlier month"
        raise SnapshotUnfit(message)
    if done.last is not None:
        done.difference = next(_left(refold, done, totals), None)
    return done


def _unless_done(rebuild: Rebuild) -> Rebuild | None:
    """The rebuild while it goes on. Raises SnapshotUnfit."""
    if rebuild.problem is not None:
        raise SnapshotUnfit(rebuild.problem)
    return None if rebuild.is_done else rebuild


def shown_fact(fact: Fact) -> dict[str, Any]:
    """A fact's kind and fields, bytes in hex."""
    return {"fact": type(fact).__name__, **_plain(msgspec.structs.asdict(fact))}


def _fold_again(refold: Refold, told: SourceRecord, values: tuple[bytes, ...]) -> Difference | None:
    again = refold.fold(told)
    expected = encode_facts(told.position, refold.state.log_ms, told.source, again.facts)
    if again.problem is None and tuple(expected) == values:
        return None
    ours, theirs = [shown_fact(fact) for fact in again.facts], [shown_fact(fact) for fact in told.facts]
    if again.problem is None and ours == theirs:
        # What differs stands beside the facts, or is a spelling that decodes alike.
        ours += [{"log_ms": refold.state.log_ms, "bytes": b"".join(expected).hex()[:2_000]}]
        theirs += [{"log_ms": told.log_ms, "bytes": b"".join(values).hex()[:2_000]}]
    return Difference(_name(told.position), ours, theirs, again.problem)


def _compare_totals(refold: Refold, position: Position, totals: TotalsBook, done: PartitionReplay) -> Difference | None:
    """The rows whose last value on `usage-totals` is of this very record."""
    for key in totals.by_version.pop((position.incarnation, position.offset), ()):
        expected = _total(refold, position, key)
        if expected != totals.values[key]:
            ours = [] if expected is None else [_plain(msgspec.structs.asdict(decode_total(expected)))]
            theirs = [_plain(msgspec.structs.asdict(decode_total(totals.values[key])))]
            return Difference(f"usage-totals at {_name(position)}", ours, theirs)
        done.totals += 1
    return None


def _total(refold: Refold, position: Position, key: bytes) -> bytes | None:
    """The row's value as the fold would publish it now; None where there is no such row."""
    state = refold.state
    if key.startswith(TOTALS.prefix):
        total_key = TOTALS.decode_key(key)
        total = state.totals.get(total_key)
        return None if total is None else encode_total(position.partition, total_key, total)
    hour_key = STRIPE_HOURS.decode_key(key)
    hour = state.stripe_hours.get(hour_key)
    return None if hour is None else encode_stripe_hour(position.partition, hour_key, hour)


def _left(refold: Refold, done: PartitionReplay, totals: TotalsBook) -> Iterator[Difference]:
    """Totals of a version that no record has, and open rows that `usage-totals` lacks."""
    assert done.first is not None, "the caller has asked"
    assert done.last is not None, "the caller has asked"
    first, last = (done.first.incarnation, done.first.offset), (done.last.incarnation, done.last.offset)
    for version, keys in totals.by_version.items():
        if first <= version <= last:
            theirs = [_plain(msgspec.structs.asdict(decode_total(totals.values[key]))) for key in keys]
            yield Difference(f"usage-totals, version {version}: the ledger has no such record", [], theirs)
    for key, version_offset, is_kept in _open_rows(refold):
        value = totals.values.get(key)
        if value is None and is_kept:
            yield _missing(key)
        elif value is not None and from_ordinal(version_offset) == _version(value):
            expected = _total(refold, done.last, key)
            if expected is not None and expected != value:
                ours, theirs = ([_plain(msgspec.structs.asdict(decode_total(v)))] for v in (expected, value))
                yield Difference("usage-totals, an open row", ours, theirs)


def _open_rows(refold: Refold) -> Iterator[tuple[bytes, int, bool]]:
    """Each open row: its key, its version, and whether it is young enough to lie on `usage-totals` for certain."""
    kept_s = refold.state.log_ms // 1_000 - _TOTALS_KEPT_S
    for total_key, total in refold.state.totals.rows.items():
        yield TOTALS.encode_key(total_key), total.version_offset, total_key.booking_day * DAY_S > kept_s
    for hour_key, hour in refold.state.stripe_hours.rows.items():
        yield STRIPE_HOURS.encode_key(hour_key), hour.version_offset, hour_key.hour * HOUR_S > kept_s


def _version(value: bytes) -> tuple[int, int]:
    total = decode_total(value)
    return total.incarnation, total.version_offset


def _missing(key: bytes) -> Difference:
    codec = TOTALS if key.startswith(TOTALS.prefix) else STRIPE_HOURS
    row: TotalKey | StripeHourKey = codec.decode_key(key)
    return Difference("usage-totals", [_plain(row._asdict())], [], "an open row has no value there")


def _name(position: Position) -> str:
    return f"usage-events {position.partition}/{position.offset}, incarnation {position.incarnation}"


def _plain(value: Any) -> Any:
    """Anything of a fact as JSON has it."""
    match value:
        case bytes():
            return value.hex()
        case dict():
            return {name: _plain(item) for name, item in value.items()}
        case list() | tuple() if not hasattr(value, "_fields"):
            return [_plain(item) for item in value]
        case msgspec.Struct():
            return _plain(msgspec.structs.asdict(value))
        case _:
            return msgspec.to_builtins(value)

"""`meterlog replay`: a partition's ledger folded again, its facts compared byte for byte with those that it holds.

Nothing here reads Kafka. The first difference ends a partition: what follows it would only be its consequence.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from billing.catalog.types import Catalog
from billing.facts import Fact
from billing.periods import DAY_S, HOUR_S
from billing.records import Position
from billing.state import StripeHourKey, TotalKey
from runtime.ledger_log import LedgerRecord
from runtime.refold import Refold
from schemas.ledger import SourceRecord, encode_facts
from schemas.rows import STRIPE_HOURS, TOTALS
from schemas.totals import decode_total, encode_stripe_hour, encode_total

__all__ = ["Difference", "PartitionReplay", "TotalsBook", "replay_partition", "shown_fact"]

_TOTALS_KEPT_S = 39 * DAY_S
"""`usage-totals` keeps a value for 40 days: an open row that is older (its account is quarantined) may be gone there."""


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
) -> PartitionReplay:
    """Fold the ledger's records again from an empty state; stop at the first difference. Raises UnknownBehaviour, LedgerGap.

    `advance` is told of each record's facts, for a progress bar. `totals` must have been read after the ledger's end was
    found: values of later versions are left out.
    """
    done = PartitionReplay(partition)
    refold = Refold(catalog)
    for told, values in ledger:
        position = told.position
        done.first, done.last = done.first or position, position
        done.difference = _fold_again(refold, told, values) or _compare_totals(refold, position, totals, done)
        if done.difference is not None:
            return done
        done.records += 1
        done.facts += len(told.facts)
        advance(len(values))
    if done.last is not None:
        done.difference = next(_left(refold, done, totals), None)
    return done


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
    now_s = refold.state.log_ms // 1_000
    for total_key in refold.state.totals.rows:
        if total_key.booking_day * DAY_S > now_s - _TOTALS_KEPT_S and TOTALS.encode_key(total_key) not in totals.values:
            yield _missing(total_key)
    for hour_key in refold.state.stripe_hours.rows:
        if hour_key.hour * HOUR_S > now_s - _TOTALS_KEPT_S and STRIPE_HOURS.encode_key(hour_key) not in totals.values:
            yield _missing(hour_key)


def _missing(key: TotalKey | StripeHourKey) -> Difference:
    return Difference("usage-totals", [_plain(key._asdict())], [], "an open row has no value there")


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

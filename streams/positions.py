"""Where a partition's fold goes on: the position row decides, everything else must agree with it."""

from __future__ import annotations

import struct
from hashlib import sha256
from typing import Final, NamedTuple

from streams.edges import LogRange
from streams.errors import PositionUnfit
from streams.port import LastRecord, PartitionFold, Record

__all__ = ["Witnesses", "record_digest", "start_offset"]

_DIGEST_BYTES: Final = 16
_LENGTH: Final = struct.Struct(">q")
_NONE: Final = _LENGTH.pack(-1)


def record_digest(record: Record) -> bytes:
    """What makes a record that very one: key, value, headers and append time. 16 bytes of SHA-256."""
    digest = sha256(_LENGTH.pack(record.timestamp))
    headers = [part for name, value in record.headers for part in (name.encode("utf-8", "surrogatepass"), value)]
    for part in (record.key, record.value, *headers):
        digest.update(_NONE if part is None else _LENGTH.pack(len(part)) + part)
    return digest.digest()[:_DIGEST_BYTES]


_WHAT_TO_DO: Final = (
    "bring the log back as it was; or delete usage-events and make it anew with `meterlog topics create`, which continues the "
    "ledger: what was on the log and is not in the ledger must then be sent again"
)


class Witnesses(NamedTuple):
    """What is compared with the position row of one partition."""

    source: LogRange
    ledger_has_facts: bool
    group_offset: int | None
    """Committed by the group, for lag tools; None: never."""
    last: LastRecord | None = None
    """What the log has at the offset of the record folded last; None where it holds no record there (any more)."""
    is_anew: bool = False
    """The log was made anew, and goes on where the one ended that the position row is of."""


def start_offset(partition: int, fold: PartitionFold, witnesses: Witnesses) -> int:
    """Offset of the next record to fold: the position row's, or the log's start where there is no row.

    Raises PositionUnfit, which says what contradicts what: a fold that starts too late loses events, and one that
    starts too early with empty tables counts them twice.
    """
    position = fold.next_offset
    contradiction = _contradiction(position, fold.last, witnesses)
    if contradiction is not None:
        message = f"partition {partition}: {contradiction}"
        raise PositionUnfit(message)
    return witnesses.source.start if position is None else position


def _contradiction(position: int | None, last: LastRecord | None, witnesses: Witnesses) -> str | None:
    source, ledger_has_facts, group_offset, found, is_anew = witnesses
    if position is None and ledger_has_facts:
        return "there is no position row, but the ledger has facts: the changelogs lost their rows"
    if position is not None and not is_anew:
        contradiction = _log_contradiction(position, last, source, found)
        if contradiction is not None:
            return f"{contradiction}; {_WHAT_TO_DO}"
    start = source.start if position is None else position
    if group_offset is not None and group_offset > start:
        return f"the group committed {group_offset}, the position row says {start}: rows are lost"
    return None


def _log_contradiction(
    position: int, last: LastRecord | None, source: LogRange, found: LastRecord | None
) -> str | None:
    """Why this is not the log that the position row is of."""
    if position > source.end:
        return f"position {position} lies beyond the log's end {source.end}: another log, or one that was cut"
    if position < source.start:
        return f"position {position} lies before the log's start {source.start}: records went that were never folded"
    if last is not None and last.offset >= source.start and found != last:
        return f"the record at {last.offset} is not the one that was folded last: another log, or one that was cut"
    return None

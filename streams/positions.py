"""Where a partition's fold goes on: the position row decides, everything else must agree with it."""

from __future__ import annotations

from typing import NamedTuple

from streams.errors import PositionUnfit

__all__ = ["LogRange", "Witnesses", "start_offset"]


class LogRange(NamedTuple):
    """What a partition of a topic holds for readers of committed records."""

    start: int
    end: int


class Witnesses(NamedTuple):
    """What is compared with the position row of one partition."""

    source: LogRange
    ledger_has_facts: bool
    group_offset: int | None
    """Committed by the group, for lag tools; None: never."""


def start_offset(partition: int, position: int | None, witnesses: Witnesses) -> int:
    """Offset of the next record to fold; `position` is the row's next offset, None where there is no row.

    Raises PositionUnfit, which says what contradicts what: a fold that starts too late loses events, and one that
    starts too early with empty tables counts them twice.
    """
    contradiction = _contradiction(position, witnesses)
    if contradiction is not None:
        message = f"partition {partition}: {contradiction}"
        raise PositionUnfit(message)
    return witnesses.source.start if position is None else position


def _contradiction(position: int | None, witnesses: Witnesses) -> str | None:
    source, ledger_has_facts, group_offset = witnesses
    if position is None and ledger_has_facts:
        return "there is no position row, but the ledger has facts: the changelogs lost their rows"
    if position is not None and position > source.end:
        return f"position {position} lies beyond the log's end {source.end}: another log, or one that was cut"
    if position is not None and position < source.start:
        return f"position {position} lies before the log's start {source.start}: records went that were never folded"
    start = source.start if position is None else position
    if group_offset is not None and group_offset > start:
        return f"the group committed {group_offset}, the position row says {start}: rows are lost"
    return None

"""Why a fold of usage events stands before a record, in words that name the commands that go on."""

from __future__ import annotations

import shlex
from datetime import UTC, datetime, timedelta
from typing import Final

from billing.accounts.types import parse_account
from billing.errors import InvalidField, RecordCrashed, Stands, TimeJumped, UnknownBehaviour
from streams.port import Record, Stop, StopKind

__all__ = ["AHEAD_MS_MAX", "note_of", "stop_ahead", "stop_before"]

AHEAD_MS_MAX: Final = 2 * 60_000
"""How far a record's append time may lie ahead of the worker's clock: clocks that are kept differ by less."""
_RAISED: Final = "a rule raised "
_NOBODY: Final = "ORG/CUSTOMER"


def stop_ahead(partition: int, record: Record) -> Stop:
    """The record was appended at a time that this worker's clock has not reached. The same until it has: no second is told."""
    appended_at = _moment(record.timestamp)
    message = (
        f"it was appended at {appended_at}, more than 2 minutes ahead of this worker's clock, and waits for it; where the "
        f"worker's clock is wrong, mend it; where the broker's is: {_freeze(partition, record.offset)}"
    )
    return Stop(record.offset, StopKind.AHEAD, message)


def stop_before(partition: int, record: Record, reason: Stands) -> Stop:
    """The record was not folded, for `reason`."""
    match reason:
        case UnknownBehaviour():
            return Stop(record.offset, StopKind.BEHAVIOUR, f"{reason}; upgrade this worker")
        case TimeJumped():
            resume, freeze = _resume(partition, record.offset), _freeze(partition, record.offset)
            message = f"{reason}; where that time is right: {resume}; else: {freeze}"
        case RecordCrashed():
            message = _crashed(str(reason), partition, record.offset, _account(record))
        case _:
            message = str(reason)
    return Stop(record.offset, StopKind.PARKED, message)


def note_of(partition: int, stop: Stop) -> str:
    """Why the partition stands, for everybody: the API's health shows it to whoever asks.

    Whose record it is, and what the rule said of it, are in the worker's log and health.
    """
    message = stop.message
    if message.startswith(_RAISED):
        kind = message.removeprefix(_RAISED).partition(":")[0]
        message = _crashed(f"{kind} (the worker's log says more)", partition, stop.offset, _NOBODY)
    return f"stands at offset {stop.offset} ({stop.kind}): {message}"


def _crashed(what: str, partition: int, offset: int, account: str) -> str:
    place = _place(partition, offset)
    return (
        f"{_RAISED}{what}; to set the record aside: meterlog quarantine {place}; or all of an account's: "
        f"meterlog quarantine --account {account} {place}; after an upgrade that mends it: {_resume(partition, offset)}"
    )


def _place(partition: int, offset: int) -> str:
    return f"--partition {partition} --offset {offset}"


def _resume(partition: int, offset: int) -> str:
    return f"meterlog resume {_place(partition, offset)}"


def _freeze(partition: int, offset: int) -> str:
    return f"meterlog freeze-time {_place(partition, offset)}"


def _account(record: Record) -> str:
    """For a record of nobody's, such as a tick, the account is to be found in what the rule raised."""
    try:
        return shlex.quote(str(parse_account(record.key)))
    except InvalidField:
        return _NOBODY


def _moment(ms: int) -> str:
    """In UTC, as far as a calendar goes: a broker's clock may say anything."""
    try:
        return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)).isoformat(timespec="seconds")
    except OverflowError:
        return f"{ms} ms since 1970"

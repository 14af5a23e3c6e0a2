"""Why a fold of usage events stands before a record, in words that name the commands that go on."""

from __future__ import annotations

import shlex
from datetime import UTC, datetime, timedelta
from typing import Final

from billing.accounts.types import parse_account
from billing.errors import InvalidField, RecordCrashed, Stands, TimeJumped, UnknownBehaviour
from streams.port import Record, Stop, StopKind

__all__ = ["AHEAD_MS_MAX", "stop_ahead", "stop_before"]

AHEAD_MS_MAX: Final = 2 * 60_000
"""How far a record's append time may lie ahead of the worker's clock: clocks that are kept differ by less."""


def stop_ahead(partition: int, record: Record) -> Stop:
    """The record was appended at a time that this worker's clock has not reached. The same until it has: no second is told."""
    appended_at = _moment(record.timestamp)
    message = (
        f"it was appended at {appended_at}, more than 2 minutes ahead of this worker's clock, and waits for it; where the "
        f"worker's clock is wrong, mend it; where the broker's is: {_freeze(partition, record)}"
    )
    return Stop(record.offset, StopKind.AHEAD, message)


def stop_before(partition: int, record: Record, reason: Stands) -> Stop:
    """The record was not folded, for `reason`."""
    match reason:
        case UnknownBehaviour():
            return Stop(record.offset, StopKind.BEHAVIOUR, f"{reason}; upgrade this worker")
        case TimeJumped():
            message = (
                f"{reason}; where that time is right: {_resume(partition, record)}; else: {_freeze(partition, record)}"
            )
        case RecordCrashed():
            message = (
                f"a rule raised {reason}; to set the record aside: meterlog quarantine {_place(partition, record)}; "
                f"{_quarantine_account(partition, record)}after an upgrade that mends it: {_resume(partition, record)}"
            )
        case _:
            message = str(reason)
    return Stop(record.offset, StopKind.PARKED, message)


def _place(partition: int, record: Record) -> str:
    return f"--partition {partition} --offset {record.offset}"


def _resume(partition: int, record: Record) -> str:
    return f"meterlog resume {_place(partition, record)}"


def _freeze(partition: int, record: Record) -> str:
    return f"meterlog freeze-time {_place(partition, record)}"


def _quarantine_account(partition: int, record: Record) -> str:
    """For a record of nobody's, such as a tick, the account is to be found in what the rule raised."""
    try:
        account = shlex.quote(str(parse_account(record.key)))
    except InvalidField:
        account = "ORG/CUSTOMER"
    return f"or all of an account's: meterlog quarantine --account {account} {_place(partition, record)}; "


def _moment(ms: int) -> str:
    """In UTC, as far as a calendar goes: a broker's clock may say anything."""
    try:
        return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)).isoformat(timespec="seconds")
    except OverflowError:
        return f"{ms} ms since 1970"

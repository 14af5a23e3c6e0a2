"""Which events of a batch may go to the log, and why the others may not."""

from typing import Final

import msgspec

from api.event_log import Keyed
from api.items import Batch
from billing.errors import InvalidField
from billing.facts import Reason
from billing.metering.rules import ID_BYTES_MAX, check_fields, check_time
from billing.records import UsageEvent
from schemas.json_fields import Undecodable
from schemas.usage_event_avro import encode_usage_event

__all__ = ["Rejected", "Verdict", "judge"]


class Rejected(msgspec.Struct, frozen=True):
    """One item that was not taken. It is on no log: mended, it may be sent again under the same id."""

    index: int
    """Its place in the batch, from 0."""
    event_id: str | None
    """Its id where one could be read, cut to 256 characters."""
    reason: str
    """Of the closed list `billing.facts.Reason`."""
    message: str
    field: str | None


class Verdict:
    """What became of the items so far."""

    __slots__ = ("rejected", "taken")

    def __init__(self) -> None:
        self.taken: list[Keyed] = []
        self.rejected: list[Rejected] = []


_SHOWN_ID_CHARS: Final = ID_BYTES_MAX


def judge(batch: Batch, start: int, end: int, org: str, now_ms: int, verdict: Verdict) -> None:
    """Judge the items from `start` to before `end`, adding to `verdict`. Never raises for an item."""
    read = batch.read
    for index in range(start, min(end, len(batch.items))):
        item = batch.items[index]
        try:
            event = read(item)
            check_fields(event)
        except InvalidField as exc:
            verdict.rejected.append(_rejected(batch, index, Reason.INVALID_FIELD, exc.message, exc.field))
            continue
        except Undecodable as exc:
            verdict.rejected.append(_rejected(batch, index, Reason.UNREADABLE, str(exc), None))
            continue
        if refusal := check_time(event.occurred_at_us, now_ms):
            reason, message = refusal
            verdict.rejected.append(_rejected(batch, index, reason, message, "occurred_at"))
            continue
        verdict.taken.append(_keyed(org, event))


def _keyed(org: str, event: UsageEvent) -> Keyed:
    return Keyed(f"{org}/{event.customer_id}".encode(), encode_usage_event(event))


def _rejected(batch: Batch, index: int, reason: Reason, message: str, field: str | None) -> Rejected:
    event_id = batch.id_of(batch.items[index])
    shown = None if event_id is None else event_id[:_SHOWN_ID_CHARS]
    return Rejected(index, shown, reason.value, message, field)

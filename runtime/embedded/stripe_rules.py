"""What Stripe's billing meters accept and refuse, as plain functions of the request, the meter and the time.

Sources: the API reference of `POST /v2/billing/meter_events` (its error codes), of `POST /v1/billing/meter_events`, of
`GET /v1/billing/meters/{id}/event_summaries`, and the changelog of 2026-04-22 (15 digits). Where Stripe's documents are
silent, a comment says what was chosen.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import NamedTuple

__all__ = [
    "DAY_S",
    "HOUR_S",
    "IDENTIFIER_WINDOW_MS",
    "Event",
    "EventRequest",
    "Meter",
    "Refusal",
    "check_event",
    "check_summary_range",
    "from_timestamp_v2",
    "to_timestamp_v2",
]

HOUR_S = 3_600
DAY_S = 86_400
IDENTIFIER_WINDOW_MS = DAY_S * 1_000
"""Stripe keeps identifiers apart for a rolling 24 hours; afterwards the same one is a new event."""
_PAST_S_MAX = 35 * DAY_S
_FUTURE_S_MAX = 300
_NAME_CHARS_MAX = 100
_DIGITS_MAX = 15
_VALUE = re.compile(r"[0-9]+(\.[0-9]+)?", re.ASCII)
_WINDOW_S = {"hour": HOUR_S, "day": DAY_S}


class Refusal(NamedTuple):
    """An answer that is an error. `code` is None where Stripe gives none."""

    status: int
    code: str | None
    message: str
    param: str | None = None
    type: str | None = "invalid_request_error"


class Meter(NamedTuple):
    """A billing meter: which events it takes, and how it adds them up."""

    id: str
    event_name: str
    display_name: str
    formula: str
    """`sum`, `count` or `last`, over the values that stand."""
    event_time_window: str | None
    """`hour` or `day`: only the last value of each UTC window stands. None: every event stands."""
    customer_key: str
    value_key: str
    status: str
    created_s: int
    updated_s: int
    deactivated_s: int | None

    def window_start_s(self, timestamp_s: int) -> int:
        """Start of the window that the moment falls into; the moment itself where the meter has no windows."""
        length_s = _WINDOW_S.get(self.event_time_window or "")
        return timestamp_s if length_s is None else timestamp_s - timestamp_s % length_s


class EventRequest(NamedTuple):
    """A meter event as it was asked for, through either version of the API."""

    event_name: str
    identifier: str
    payload: dict[str, str]
    timestamp_s: int


class Event(NamedTuple):
    """A meter event that the rules allow."""

    meter: Meter
    identifier: str
    customer: str
    value: str
    """Plain decimal, as it came."""
    timestamp_s: int


def check_event(request: EventRequest, meter: Meter | None, now_s: int) -> Event | Refusal:
    """The event, or the first rule that it breaks. Duplicates and concurrency are the caller's: they need the state."""
    if meter is None:
        return Refusal(400, "no_meter", f"No meter takes events named {request.event_name}.", "event_name")
    if meter.status != "active":
        return Refusal(400, "archived_meter", f"The meter {meter.id} must be active to take events.", "event_name")
    if not 0 < len(request.identifier) <= _NAME_CHARS_MAX:
        message = f"An identifier has 1 to {_NAME_CHARS_MAX} characters."
        return Refusal(400, "parameter_invalid", message, "identifier")
    customer = request.payload.get(meter.customer_key)
    if not customer:
        return Refusal(400, "payload_no_customer_defined", f"The payload must have {meter.customer_key}.", "payload")
    value = request.payload.get(meter.value_key)
    if value is None:
        return Refusal(400, "payload_no_value_defined", f"The payload must have {meter.value_key}.", "payload")
    return (
        _check_value(value)
        or _check_time(request.timestamp_s, now_s)
        or Event(meter, request.identifier, customer, value, request.timestamp_s)
    )


def check_summary_range(start_s: int, end_s: int, grouping: str | None) -> Refusal | None:
    """Summaries are aligned: to the minute as a whole, to UTC hours or days when grouped."""
    if start_s >= end_s:
        return Refusal(400, "parameter_invalid", "start_time must be before end_time.", "start_time")
    if grouping is not None and grouping not in _WINDOW_S:
        return Refusal(400, "parameter_invalid", "value_grouping_window is hour or day.", "value_grouping_window")
    step_s = _WINDOW_S.get(grouping or "", 60)
    if start_s % step_s or end_s % step_s:
        return Refusal(400, "parameter_invalid", f"start_time and end_time must be multiples of {step_s} s.")
    return None


def from_timestamp_v2(text: str) -> int | Refusal:
    """An RFC 3339 moment in whole seconds since the epoch."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        return Refusal(400, "parameter_invalid", f"{text[:48]!r} is not an RFC 3339 timestamp.", "timestamp")
    return int(moment.timestamp())


def to_timestamp_v2(moment_ms: int) -> str:
    return datetime.fromtimestamp(moment_ms / 1_000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _check_value(value: str) -> Refusal | None:
    if not _VALUE.fullmatch(value):
        message = f"The value must be a plain decimal number of 0 or more. Received {value[:48]}."
        return Refusal(400, "payload_invalid_value", message, "payload")
    # Stripe counts digits, not significance: the zeros of 1000000000000000 are digits, leading ones are not.
    if len(value.replace(".", "").lstrip("0")) > _DIGITS_MAX:
        message = f"The value in the event payload can have at most {_DIGITS_MAX} digits. Received {value[:48]}."
        return Refusal(400, "payload_invalid_value", message, "payload")
    return None


def _check_time(timestamp_s: int, now_s: int) -> Refusal | None:
    if timestamp_s < now_s - _PAST_S_MAX:
        return Refusal(400, "timestamp_too_far_in_past", "The timestamp is more than 35 days back.", "timestamp")
    if timestamp_s > now_s + _FUTURE_S_MAX:
        return Refusal(400, "timestamp_in_future", "The timestamp is more than 5 minutes ahead.", "timestamp")
    return None

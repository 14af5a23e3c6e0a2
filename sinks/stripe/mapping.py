"""Between our records and Stripe's: windows and identifiers one way, requests and answers the other."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from schemas.intents import INTENTS_VERSION, Intent, Outcome, RowVersion, Status, Target, Window
from sinks.stripe.errors import DUPLICATE, Refused
from sinks.stripe.port import HOUR_S, Accepted, MeterEvent, MeterInfo

__all__ = [
    "from_stripe_meter",
    "identifier_of",
    "timestamp_of",
    "to_accepted_outcome",
    "to_meter_event",
    "to_refused_outcome",
    "to_request",
    "to_unlinked_outcome",
]


def identifier_of(target: Target, window: Window, rows: Iterable[RowVersion], series: int) -> str:
    """Stripe's identifier of a window's total: the same for the same rows at the same versions, 67 characters of 100.

    It pins the value, since a row's quantity follows from its version: what makes a refused duplicate a success.
    """
    parts: list[object] = [target, *window]
    for row in sorted(rows, key=lambda row: row.account):
        parts += [row.account, row.incarnation, row.partition, row.version_offset]
    parts.append(series)
    # No name on the log holds a zero byte, so parts cannot run into each other.
    digest = hashlib.sha256("\x00".join(str(part) for part in parts).encode())
    return f"ml_{digest.hexdigest()}"


def timestamp_of(hour: int, send_number: int, now_ms: int) -> int:
    """The moment that an event is given, in whole seconds: within its hour, and never ahead of now (beyond the hour's start).

    Each send of a window is given a later one than the send before (for an hour's worth of seconds), so that the newest total
    stands whether Stripe goes by the order of arrival or by the events' own times: its documents say both.
    """
    start_s = hour * HOUR_S
    return min(start_s + send_number, start_s + HOUR_S - 1, max(start_s, now_ms // 1_000))


def to_meter_event(intent: Intent, meter: MeterInfo | None) -> MeterEvent:
    """The event of an intent. A pending one may outlive its meter (None): Stripe's default names, and its refusal."""
    return MeterEvent(
        event_name=intent.stripe_event_name,
        identifier=intent.identifier,
        customer_key="stripe_customer_id" if meter is None else meter.customer_key,
        customer=intent.stripe_customer,
        value_key="value" if meter is None else meter.value_key,
        value=intent.quantity,
        timestamp_s=intent.timestamp_s,
    )


def to_request(event: MeterEvent) -> dict[str, Any]:
    """The body of `POST /v2/billing/meter_events` (API 2026-10-28)."""
    return {
        "event_name": event.event_name,
        "identifier": event.identifier,
        "payload": {event.customer_key: event.customer, event.value_key: event.value},
        "timestamp": datetime.fromtimestamp(event.timestamp_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def from_stripe_meter(meter: Any) -> MeterInfo:
    """A meter of Stripe's list, as its library gives it."""
    return MeterInfo(
        meter_id=meter.id,
        event_name=meter.event_name,
        event_time_window=meter.event_time_window,
        formula=meter.default_aggregation.formula,
        customer_key=meter.customer_mapping.event_payload_key,
        value_key=meter.value_settings.event_payload_key,
        active=meter.status == "active",
    )


def to_accepted_outcome(intent: Intent, accepted: Accepted, now_ms: int) -> Outcome:
    return _outcome(
        intent,
        Status.ACCEPTED,
        code=DUPLICATE if accepted.was_duplicate else None,
        livemode=accepted.livemode,
        request_id=accepted.request_id,
        now_ms=now_ms,
    )


def to_refused_outcome(intent: Intent, refusal: Refused, now_ms: int) -> Outcome:
    return _outcome(intent, Status.REFUSED, code=refusal.code, message=refusal.message, now_ms=now_ms)


def to_unlinked_outcome(intent: Intent, now_ms: int) -> Outcome:
    message = "the customer is no customer of Stripe's: link it to its cus_… id"
    return _outcome(intent, Status.UNLINKED, message=message, now_ms=now_ms)


def _outcome(
    intent: Intent,
    status: Status,
    *,
    now_ms: int,
    code: str | None = None,
    message: str | None = None,
    livemode: bool = False,
    request_id: str | None = None,
) -> Outcome:
    return Outcome(
        version=INTENTS_VERSION,
        target=intent.target,
        stripe_customer=intent.stripe_customer,
        stripe_event_name=intent.stripe_event_name,
        hour=intent.hour,
        identifier=intent.identifier,
        status=status,
        quantity=intent.quantity,
        series=intent.series,
        code=code,
        message=message,
        livemode=livemode,
        request_id=request_id,
        at_ms=now_ms,
    )

"""What Stripe has, from both of its books: the intents that were accepted, and the meters themselves."""

import asyncio
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal

from billing.fold import STRIPE_HOUR_OPEN_S
from billing.quantities import NANO, nano_of
from runtime.audit import Difference
from runtime.errors import CommandError
from runtime.logs import partitions_of, read
from runtime.settings import Settings
from schemas.intents import Intent, Outcome, Told, Window, decode_intent_record, reduce_intents
from schemas.topics import STRIPE_INTENTS
from sinks.stripe.client import StripeMeters, target_of
from sinks.stripe.errors import StripeSinkError

__all__ = ["accepted_usage", "covered_from_hour", "reported_usage", "stripe_key", "untold_totals"]

_HOUR_S = 3_600
_HOUR_MS = 3_600_000
_REQUEST_TIMEOUT_S = 30.0
_REQUESTS_AT_ONCE = 8

Windows = Mapping[Window, str]


def accepted_usage(settings: Settings) -> dict[Window, int]:
    """What Stripe acknowledged of each hour, in nano-units."""
    return {window: nano_of(text) for window, text in _accepted_windows(settings).items()}


def reported_usage(settings: Settings) -> dict[Window, int]:
    """What the meters' own summaries say of every window that was ever accepted.

    Summaries are floats: one that is the nearest float of the exact total counts as that total. Raises CommandError
    when Stripe does not answer.
    """
    try:
        return asyncio.run(_reported_windows(settings, _accepted_windows(settings)))
    except StripeSinkError as exc:
        message = f"Stripe at {settings.stripe_url or 'its own address'} does not say what it has: {exc}"
        raise CommandError(message) from exc


def covered_from_hour(settings: Settings) -> int | None:
    """The first hour of which Stripe must have been told; None: it was told of nothing yet.

    Stripe takes usage for 35 days back, so what lay further back when this account of Stripe's was first told stays
    untold; and intents are kept for 400 days.
    """
    target = target_of(stripe_key(settings))
    decided_ms = [r.decided_at_ms for r in _records(settings) if isinstance(r, Intent) and r.target == target]
    return min(decided_ms) // _HOUR_MS - STRIPE_HOUR_OPEN_S // _HOUR_S if decided_ms else None


def untold_totals(settings: Settings) -> list[Difference]:
    """What Stripe does not have, each with the reason: refused, not linked, or not answered yet."""
    told = _told(settings)
    refused = [_untold(f"stripe refused: {o.code}", o) for o in told.refused.values()]
    unlinked = [_untold("stripe: not linked to a customer", o) for o in told.unlinked.values()]
    pending = [_untold("stripe: no answer yet", i) for i in told.pending.values()]
    return sorted([*refused, *unlinked, *pending])


def stripe_key(settings: Settings) -> str | None:
    """The API key in the clear; None: dry."""
    return settings.stripe_api_key.get_secret_value() if settings.stripe_api_key else None


def name_window(window: Window) -> str:
    """A window as a person reads it."""
    hour = datetime.fromtimestamp(window.hour * _HOUR_S, UTC)
    return f"{window.stripe_customer} {window.stripe_event_name} {hour:%Y-%m-%dT%H:00Z}"


def _accepted_windows(settings: Settings) -> Windows:
    return {window: outcome.quantity for window, outcome in _told(settings).accepted.items()}


def _told(settings: Settings) -> Told:
    return reduce_intents(_records(settings), target_of(stripe_key(settings)))


def _untold(where: str, record: Intent | Outcome) -> Difference:
    return Difference(where, name_window(record.window), record.quantity, "")


def _records(settings: Settings) -> Iterator[Intent | Outcome]:
    servers = settings.bootstrap_servers
    for partition in range(partitions_of(servers, STRIPE_INTENTS)):
        for record in read(servers, STRIPE_INTENTS, partition):
            assert record.value is not None, f"{STRIPE_INTENTS} {partition}/{record.offset} has no value"
            yield decode_intent_record(record.value)


async def _reported_windows(settings: Settings, accepted: Windows) -> dict[Window, int]:
    """One request for each customer and meter, over the span of its windows."""
    hours_of: dict[tuple[str, str], list[int]] = {}
    for window in accepted:
        hours_of.setdefault((window.stripe_customer, window.stripe_event_name), []).append(window.hour)
    client = StripeMeters(stripe_key(settings), settings.stripe_url, _REQUEST_TIMEOUT_S)
    turns = asyncio.Semaphore(_REQUESTS_AT_ONCE)
    try:
        meters = await client.meters()

        async def ask(customer: str, event_name: str, hours: list[int]) -> dict[Window, int]:
            if event_name not in meters:
                return {}  # the meter is gone, and with it all that it had: a difference
            start_s, end_s = min(hours) * _HOUR_S, (max(hours) + 1) * _HOUR_S
            async with turns:
                values = await client.hours(meters[event_name].meter_id, customer, start_s, end_s)
            windows = {Window(customer, event_name, hour): value for hour, value in values.items()}
            return {window: _exact(value, accepted.get(window)) for window, value in windows.items()}

        found = await asyncio.gather(*(ask(*key, hours) for key, hours in hours_of.items()))
    finally:
        await client.close()
    return {window: nano for part in found for window, nano in part.items()}


def _exact(value: float, accepted: str | None) -> int:
    if accepted is not None and float(accepted) == value:
        return nano_of(accepted)
    return int(Decimal(value) * NANO)

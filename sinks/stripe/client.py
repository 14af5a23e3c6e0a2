"""The port over Stripe's own library: one request per call, no retries of its own, every failure with a name of ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import aiohttp
import stripe

from schemas.intents import Target
from sinks.stripe.errors import FOREIGN_ERRORS, Misconfigured, from_foreign_error, is_duplicate
from sinks.stripe.mapping import from_stripe_meter, to_request
from sinks.stripe.port import HOUR_S, Accepted, MeterEvent, MeterInfo

__all__ = ["DOUBLE_HEADER", "StripeMeters", "target_of"]

DOUBLE_HEADER: Final = "X-Meterlog-Double"
"""On every answer of the built-in double, and on none of Stripe's."""
_DRY_KEY = "sk_test_of_the_double"
_PAGE = 100
_LIVE_PREFIXES = ("sk_live_", "rk_live_")
_FOREIGN = tuple(FOREIGN_ERRORS)


def target_of(api_key: str | None) -> Target:
    """Who is told with this key: without one, the double."""
    if api_key is None:
        return Target.DOUBLE
    return Target.LIVE if api_key.startswith(_LIVE_PREFIXES) else Target.TEST


class StripeMeters:
    """Stripe's billing meters, or the double's at `url`. Must be made and used on one event loop."""

    def __init__(self, api_key: str | None, url: str | None, request_timeout_s: float) -> None:
        """Raises Misconfigured where there is neither a key nor a double's address."""
        if api_key is None and url is None:
            message = (
                "there is no Stripe key and no double: set METERLOG_STRIPE_API_KEY, or METERLOG_STRIPE_URL to a double"
            )
            raise Misconfigured(message)
        # Otherwise the library leaves a file in the home directory and adds timings of past requests to new ones.
        stripe.enable_telemetry = False
        self._is_dry = api_key is None
        self._is_live = target_of(api_key) is Target.LIVE
        self._http = stripe.AIOHTTPClient(timeout=aiohttp.ClientTimeout(total=request_timeout_s))
        self._client = stripe.StripeClient(
            api_key or _DRY_KEY,
            base_addresses={"api": url.rstrip("/")} if url is not None else None,
            max_network_retries=0,  # a repeat must be ours: it belongs after the outcome's place on the log
            http_client=self._http,
        )

    async def send(self, event: MeterEvent) -> Accepted:
        request: Any = to_request(event)
        try:
            answer = await self._client.v2.billing.meter_events.create_async(
                request, {"idempotency_key": event.identifier}
            )
        except _FOREIGN as exc:
            if is_duplicate(exc, event.identifier):
                return Accepted(self._is_live, getattr(exc, "request_id", None), was_duplicate=True)
            raise from_foreign_error(exc) from exc
        response = answer.last_response
        return Accepted(answer.livemode, None if response is None else response.request_id, was_duplicate=False)

    async def meters(self) -> Mapping[str, MeterInfo]:
        found: dict[str, MeterInfo] = {}
        params: Any = {"limit": _PAGE}
        more = True
        while more:
            try:
                page = await self._client.v1.billing.meters.list_async(params)
            except _FOREIGN as exc:
                raise from_foreign_error(exc) from exc
            self._check_who_answers(page)
            for meter in page.data:
                _prefer_active(found, from_stripe_meter(meter))
            more = bool(page.has_more) and bool(page.data)
            if more:
                params["starting_after"] = page.data[-1].id
        return found

    async def hours(self, meter_id: str, customer: str, start_s: int, end_s: int) -> Mapping[int, float]:
        params: Any = {
            "customer": customer,
            "start_time": start_s,
            "end_time": end_s,
            "value_grouping_window": "hour",
            "limit": _PAGE,
        }
        values: dict[int, float] = {}
        more = True
        while more:
            try:
                page = await self._client.v1.billing.meters.event_summaries.list_async(meter_id, params)
            except _FOREIGN as exc:
                raise from_foreign_error(exc) from exc
            values.update((summary.start_time // HOUR_S, summary.aggregated_value) for summary in page.data)
            more = bool(page.has_more) and bool(page.data)
            if more:
                params["starting_after"] = page.data[-1].id
        return values

    async def close(self) -> None:
        await self._http.close_async()  # type: ignore[no-untyped-call]  # without annotations in the library

    def _check_who_answers(self, answer: Any) -> None:
        """A dry run's totals must never reach anything but the double."""
        is_double = DOUBLE_HEADER in answer.last_response.headers
        if self._is_dry and not is_double:
            raise Misconfigured("there is no Stripe key, and what answers at METERLOG_STRIPE_URL is not the double")


def _prefer_active(found: dict[str, MeterInfo], meter: MeterInfo) -> None:
    """Of several meters of one event name, which Stripe allows once the older ones are archived, the active one counts."""
    known = found.get(meter.event_name)
    if known is None or meter.active:
        found[meter.event_name] = meter

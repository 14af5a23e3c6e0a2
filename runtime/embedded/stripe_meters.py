"""The double's routes for meters, their hourly summaries, and customers."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from decimal import Decimal
from itertools import groupby
from typing import Any

from aiohttp import web

from runtime.embedded.stripe_http import error_answer, json_answer, number, page, parse_form
from runtime.embedded.stripe_rules import DAY_S, HOUR_S, Meter, Refusal, check_summary_range
from runtime.embedded.stripe_store import Store, Value, new_meter

__all__ = ["MeterRoutes"]

_FORMULAS = ("sum", "count", "last")
_WINDOWS = (None, "hour", "day")
_GROUPING_S = {"hour": HOUR_S, "day": DAY_S}


class MeterRoutes:
    """Everything but the taking of events."""

    def __init__(self, store: Store, clock: Callable[[], int]) -> None:
        self._store = store
        self._clock = clock

    def add_to(self, app: web.Application) -> None:
        app.router.add_get("/v1/billing/meters", self._list)
        app.router.add_post("/v1/billing/meters", self._create)
        app.router.add_get("/v1/billing/meters/{id}", self._retrieve)
        app.router.add_post("/v1/billing/meters/{id}/{verb:deactivate|reactivate}", self._switch)
        app.router.add_get("/v1/billing/meters/{id}/event_summaries", self._summaries)
        app.router.add_get("/v1/customers", self._customers)
        app.router.add_post("/v1/customers", self._create_customer)
        app.router.add_get("/v1/customers/{id}", self._customer)

    async def _list(self, request: web.Request) -> web.Response:
        status = request.query.get("status")
        return page(request, [_shown(meter) for meter in self._store.meters() if status in (None, meter.status)])

    async def _create(self, request: web.Request) -> web.Response:
        made = self._made(parse_form(await request.text()))
        if isinstance(made, Refusal):
            return error_answer(made)
        self._store.put_meter(made)
        return json_answer(_shown(made))

    async def _retrieve(self, request: web.Request) -> web.Response:
        meter = self._store.meter(request.match_info["id"])
        return _no_such(request) if meter is None else json_answer(_shown(meter))

    async def _switch(self, request: web.Request) -> web.Response:
        meter = self._store.meter(request.match_info["id"])
        if meter is None:
            return _no_such(request)
        now_s = self._clock() // 1_000
        off = request.match_info["verb"] == "deactivate"
        meter = meter._replace(
            status="inactive" if off else "active", updated_s=now_s, deactivated_s=now_s if off else None
        )
        self._store.put_meter(meter)
        return json_answer(_shown(meter))

    async def _summaries(self, request: web.Request) -> web.Response:
        meter = self._store.meter(request.match_info["id"])
        if meter is None:
            return _no_such(request)
        customer = request.query.get("customer", "")
        start_s, end_s = number(request.query.get("start_time")), number(request.query.get("end_time"))
        grouping = request.query.get("value_grouping_window")
        if not customer or start_s is None or end_s is None:
            return error_answer(Refusal(400, "parameter_missing", "customer, start_time and end_time are required."))
        if refusal := check_summary_range(start_s, end_s, grouping):
            return error_answer(refusal)
        values = self._store.standing(meter.id, customer, start_s, end_s)
        step_s = _GROUPING_S.get(grouping or "", end_s - start_s)
        # Windows without usage are left out. Stripe's reference does not say whether it lists them as 0.
        groups = groupby(values, key=lambda value: start_s + (value.start_s - start_s) // step_s * step_s)
        summaries = [_summary(meter, customer, start, start + step_s, list(group)) for start, group in groups]
        return page(request, summaries[::-1])

    async def _customers(self, request: web.Request) -> web.Response:
        return page(request, [_customer(*row) for row in self._store.customers()])

    async def _create_customer(self, request: web.Request) -> web.Response:
        form = parse_form(await request.text())
        # An id of one's own choice is the double's addition: a test names the customers it will use.
        customer, now_s = str(form.get("id") or f"cus_double{secrets.token_hex(6)}"), self._clock() // 1_000
        self._store.put_customer(customer, now_s)
        return json_answer(_customer(customer, now_s))

    async def _customer(self, request: web.Request) -> web.Response:
        created_s = self._store.customer_created_s(request.match_info["id"])
        return _no_such(request) if created_s is None else json_answer(_customer(request.match_info["id"], created_s))

    def _made(self, form: dict[str, Any]) -> Meter | Refusal:
        name, shown = form.get("event_name"), form.get("display_name")
        formula = _inner(form, "default_aggregation", "formula")
        window = form.get("event_time_window") or None
        if not isinstance(name, str) or not name or not isinstance(shown, str) or not shown:
            return Refusal(400, "parameter_missing", "event_name and display_name are required.")
        if formula not in _FORMULAS:
            return Refusal(400, "parameter_invalid", f"The formula is one of {_FORMULAS}.", "default_aggregation")
        if window not in _WINDOWS:
            return Refusal(400, "parameter_invalid", "event_time_window is hour or day.", "event_time_window")
        if self._store.meter_of(name) is not None:
            return Refusal(400, "resource_already_exists", f"A meter already takes {name}.", "event_name")
        customer_key = _inner(form, "customer_mapping", "event_payload_key") or "stripe_customer_id"
        value_key = _inner(form, "value_settings", "event_payload_key") or "value"
        return new_meter(name, shown, formula, window, customer_key, value_key, self._clock() // 1_000)


def _inner(form: dict[str, Any], name: str, key: str) -> str | None:
    inner = form.get(name)
    return inner.get(key) if isinstance(inner, dict) else None


def _no_such(request: web.Request) -> web.Response:
    return error_answer(Refusal(404, "resource_missing", f"No such object: {request.match_info['id']}.", "id"))


def _shown(meter: Meter) -> dict[str, Any]:
    return {
        "id": meter.id,
        "object": "billing.meter",
        "created": meter.created_s,
        "customer_mapping": {"type": "by_id", "event_payload_key": meter.customer_key},
        "default_aggregation": {"formula": meter.formula},
        "display_name": meter.display_name,
        "event_name": meter.event_name,
        "event_time_window": meter.event_time_window,
        "livemode": False,
        "status": meter.status,
        "status_transitions": {"deactivated_at": meter.deactivated_s},
        "updated": meter.updated_s,
        "value_settings": {"event_payload_key": meter.value_key},
    }


def _summary(meter: Meter, customer: str, start_s: int, end_s: int, values: list[Value]) -> dict[str, Any]:
    identity = f"{meter.id}/{customer}/{start_s}/{end_s}"
    return {
        "id": f"mtrusg_double_{hashlib.sha256(identity.encode()).hexdigest()[:24]}",
        "object": "billing.meter_event_summary",
        # Stripe returns floats. Values are added up exactly first, so that the float is the one nearest to the sum.
        "aggregated_value": float(_aggregate(meter, values)),
        "start_time": start_s,
        "end_time": end_s,
        "livemode": False,
        "meter": meter.id,
    }


def _aggregate(meter: Meter, values: list[Value]) -> Decimal:
    match meter.formula:
        case "count":
            return Decimal(len(values))
        case "last":
            return Decimal(values[-1].value)
        case _:
            return sum((Decimal(value.value) for value in values), Decimal(0))


def _customer(customer: str, created_s: int) -> dict[str, Any]:
    return {"id": customer, "object": "customer", "created": created_s, "livemode": False}

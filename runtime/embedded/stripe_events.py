"""The double's two doors for meter events, and what can be made to go wrong at them."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
from aiohttp import web

from runtime.embedded.stripe_faults import Fault, Faults
from runtime.embedded.stripe_http import cut, error_answer, json_text_answer, parse_form
from runtime.embedded.stripe_rules import (
    Event,
    EventRequest,
    Refusal,
    check_event,
    from_timestamp_v2,
    to_timestamp_v2,
)
from runtime.embedded.stripe_store import KeptAnswer, Store

__all__ = ["EventRoutes"]

_RATE_LIMITED = Refusal(429, "rate_limit", "Request rate limit exceeded.")
_BROKEN = Refusal(500, None, "An error occurred.", type="api_error")
_OTHER_PARAMETERS = Refusal(400, None, "This idempotency key was used with other parameters.", type="idempotency_error")


class _Asked(NamedTuple):
    """A request, read: through which version, under which key, and what exactly."""

    v2: bool
    key: str | None
    fingerprint: str
    event: EventRequest


class _V2Body(msgspec.Struct):
    event_name: str
    payload: dict[str, str]
    identifier: str | None = None
    timestamp: str | None = None


class EventRoutes:
    """`POST /v1/billing/meter_events` and `POST /v2/billing/meter_events`."""

    def __init__(
        self, store: Store, clock: Callable[[], int], faults: Faults | None, *, create_customers: bool
    ) -> None:
        self._store = store
        self._clock = clock
        self._faults = faults
        self._create_customers = create_customers
        self._busy: set[tuple[str, str]] = set()
        """Meter and customer of each event in the making: Stripe takes one at a time."""

    def add_to(self, app: web.Application) -> None:
        app.router.add_post("/v1/billing/meter_events", self._post_v1)
        app.router.add_post("/v2/billing/meter_events", self._post_v2)

    async def _post_v1(self, request: web.Request) -> web.Response:
        body = await request.read()
        return await self._post(
            request, body, _from_v1(parse_form(body.decode(errors="replace")), self._now_s), v2=False
        )

    async def _post_v2(self, request: web.Request) -> web.Response:
        body = await request.read()
        return await self._post(request, body, _from_v2(body, self._now_s), v2=True)

    async def _post(self, request: web.Request, body: bytes, read: EventRequest | Refusal, *, v2: bool) -> web.Response:
        fault = self._faults.draw() if self._faults is not None else None
        if fault is Fault.CUT_BEFORE_COMMIT:
            return cut(request)
        if fault is Fault.LATE_COMMIT:
            await self._hang()
        if fault is Fault.RATE_LIMITED:
            return error_answer(_RATE_LIMITED)
        if isinstance(read, Refusal):
            return error_answer(read)
        asked = _Asked(v2, request.headers.get("Idempotency-Key"), hashlib.sha256(body).hexdigest(), read)
        self._store.prune(self._clock())
        if replay := self._replay(asked):
            return replay
        if fault is Fault.ERROR_500:
            return self._break(asked)
        meter = self._store.meter_of(read.event_name)
        event = check_event(read, meter, self._now_s)
        if isinstance(event, Refusal):
            return error_answer(event)
        return await self._one_at_a_time(request, asked, event, fault)

    def _replay(self, asked: _Asked) -> web.Response | None:
        """The kept answer to the same key. Another request under that key is refused."""
        kept = self._store.kept_answer(asked.key, self._clock()) if asked.key is not None else None
        if kept is None:
            return None
        if kept.fingerprint != asked.fingerprint:
            return error_answer(_OTHER_PARAMETERS)
        return json_text_answer(kept.body, kept.status, {"Idempotent-Replayed": "true"})

    def _break(self, asked: _Asked) -> web.Response:
        """Nothing taken, 500. v1 keeps even that answer under the key; v2 does the work anew when asked again."""
        answer = error_answer(_BROKEN)
        if asked.key is not None and not asked.v2:
            assert answer.text is not None, "an error has a body"
            self._store.keep_answer(asked.key, KeptAnswer(asked.fingerprint, 500, answer.text), self._clock())
        return answer

    async def _one_at_a_time(
        self, request: web.Request, asked: _Asked, event: Event, fault: Fault | None
    ) -> web.Response:
        lane = (event.meter.id, event.customer)
        if lane in self._busy:
            return error_answer(_busy(asked))
        self._busy.add(lane)
        try:
            if fault is Fault.TIMEOUT_BEFORE_COMMIT:
                await self._hang()
                return cut(request)
            answer = self._take(asked, event, fault)
        finally:
            self._busy.discard(lane)
        if fault is Fault.ERROR_500_AFTER_COMMIT:
            return error_answer(_BROKEN)
        if fault is Fault.TIMEOUT_AFTER_COMMIT:
            await self._hang()
        return answer if fault is None else cut(request)

    def _take(self, asked: _Asked, event: Event, fault: Fault | None) -> web.Response:
        """Check the identifier and take the event, in one step that nothing else comes between."""
        now_ms = self._clock()
        if self._store.is_duplicate(event.identifier, now_ms):
            return error_answer(_duplicate(asked, event.identifier))
        body = msgspec.json.encode(_shown(asked, now_ms)).decode()
        # A cut that loses the kept answer too makes the client's repeat meet its own identifier.
        key = None if fault is Fault.CUT_AFTER_COMMIT else asked.key
        answer = KeptAnswer(asked.fingerprint, 200, body)
        if self._create_customers or self._store.customer_created_s(event.customer) is not None:
            self._store.accept(event, now_ms, key, answer)
        else:
            self._store.drop_invalid(event, "meter_event_customer_not_found", now_ms, key, answer)
        return json_text_answer(body, 200)

    async def _hang(self) -> None:
        assert self._faults is not None, "only faults hang"
        self._faults.hanging += 1
        try:
            await asyncio.sleep(self._faults.hang_s)
        finally:
            self._faults.hanging -= 1

    @property
    def _now_s(self) -> int:
        return self._clock() // 1_000


def _busy(asked: _Asked) -> Refusal:
    if asked.v2:
        message = "Cannot create multiple usage events for the same customer and meter concurrently."
        return Refusal(409, "too_many_concurrent_requests", message, type=None)
    return Refusal(429, "lock_timeout", "This object is in use by another request.")


def _duplicate(asked: _Asked, identifier: str) -> Refusal:
    """v2 says it with a code; v1 with words alone."""
    message = f"An event already exists with identifier {identifier}."
    return Refusal(400, "duplicate_meter_event" if asked.v2 else None, message, None)


def _shown(asked: _Asked, now_ms: int) -> dict[str, Any]:
    event = asked.event
    common = {"event_name": event.event_name, "identifier": event.identifier, "livemode": False}
    if asked.v2:
        times = {"created": to_timestamp_v2(now_ms), "timestamp": to_timestamp_v2(event.timestamp_s * 1_000)}
        return {"object": "v2.billing.meter_event", **common, **times, "payload": event.payload}
    seconds = {"created": now_ms // 1_000, "timestamp": event.timestamp_s}
    return {"object": "billing.meter_event", **common, **seconds, "payload": event.payload}


def _from_v1(form: dict[str, Any], now_s: int) -> EventRequest | Refusal:
    name, payload = form.get("event_name"), form.get("payload")
    if not isinstance(name, str) or not isinstance(payload, dict):
        return Refusal(400, "parameter_missing", "event_name and payload are required.")
    timestamp = form.get("timestamp", str(now_s))
    if not isinstance(timestamp, str) or not timestamp.isascii() or not timestamp.isdigit():
        return Refusal(400, "parameter_invalid", "timestamp is in seconds since the epoch.", "timestamp")
    texts = {key: value for key, value in payload.items() if isinstance(value, str)}
    return EventRequest(name, _identifier(form.get("identifier")), texts, int(timestamp))


def _from_v2(body: bytes, now_s: int) -> EventRequest | Refusal:
    try:
        read = msgspec.json.decode(body, type=_V2Body)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        return Refusal(400, "parameter_invalid", f"The body is not valid: {exc}")
    timestamp_s = now_s if read.timestamp is None else from_timestamp_v2(read.timestamp)
    if isinstance(timestamp_s, Refusal):
        return timestamp_s
    return EventRequest(read.event_name, _identifier(read.identifier), read.payload, timestamp_s)


def _identifier(given: object) -> str:
    return given if isinstance(given, str) else f"double_{secrets.token_hex(12)}"

"""A stateful double of Stripe's billing meters, for running without a Stripe account.

It keeps Stripe's rules for what the sink does with it (`stripe_rules.py`), its state survives restarts
(`stripe_store.py`), and every answer says what it is: `X-Meterlog-Double: 1`, `livemode: false`. It differs from Stripe
in what a dry run needs: the built-in catalog's meters exist, and a customer is made when first seen. Loopback only.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web

from runtime.embedded.ports import LOOPBACK
from runtime.embedded.stripe_events import EventRoutes
from runtime.embedded.stripe_faults import FaultOrder, Faults
from runtime.embedded.stripe_http import DOUBLE_HEADER, error_answer, json_answer, read_json
from runtime.embedded.stripe_meters import MeterRoutes
from runtime.embedded.stripe_rules import Refusal
from runtime.embedded.stripe_store import Store

__all__ = ["DOUBLE_HEADER", "make_app", "running", "serve"]

Clock = Callable[[], int]
"""Milliseconds since the epoch."""

_STOP_POLL_S = 0.05
_SHUTDOWN_S = 1.0  # requests that a fault left hanging must not hold up the end
_BODY_BYTES_MAX = 64 * 1024


def system_clock() -> int:
    return time.time_ns() // 1_000_000


def serve(
    data_dir: Path, port: int, stop: threading.Event, *, faults: bool = False, create_customers: bool = True
) -> int:
    """Serve on loopback until `stop` is set; the process's exit code.

    The state lies in `data_dir/stripe.sqlite`. `faults` opens `POST /_double/faults`, for tests. With
    `create_customers=False` only customers that were made by `POST /v1/customers` count; usage of others is taken and
    then dropped, as Stripe does, and listed by `GET /_double`. Raises OSError when the port is taken.
    """

    async def main() -> None:
        app = make_app(data_dir, system_clock, faults=faults, create_customers=create_customers)
        async with running(app, port):
            while not stop.is_set():
                await asyncio.sleep(_STOP_POLL_S)

    asyncio.run(main())
    return 0


@asynccontextmanager
async def running(app: web.Application, port: int) -> AsyncIterator[str]:
    """Serve `app` on loopback while the context lasts; gives its URL. Port 0 takes a free one."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=_SHUTDOWN_S)
    await runner.setup()
    try:
        await web.TCPSite(runner, LOOPBACK, port).start()
        yield f"http://{LOOPBACK}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def make_app(data_dir: Path, clock: Clock, *, faults: bool = False, create_customers: bool = True) -> web.Application:
    """The double as an application, with a clock of the caller's choice."""
    store = Store(data_dir / "stripe.sqlite")
    store.seed(clock() // 1_000)
    plan = Faults() if faults else None
    app = web.Application(middlewares=[_says_what_it_is, _authenticated], client_max_size=_BODY_BYTES_MAX)
    EventRoutes(store, clock, plan, create_customers=create_customers).add_to(app)
    MeterRoutes(store, clock).add_to(app)
    _ControlRoutes(store, plan).add_to(app)

    async def close(_: web.Application) -> None:
        store.close()

    app.on_cleanup.append(close)
    return app


class _ControlRoutes:
    """What Stripe does not have: a look at the double, and faults to order."""

    def __init__(self, store: Store, plan: Faults | None) -> None:
        self._store = store
        self._plan = plan

    def add_to(self, app: web.Application) -> None:
        app.router.add_get("/_double", self._show)
        if self._plan is not None:
            app.router.add_post("/_double/faults", self._order)
        app.router.add_route("*", "/{rest:.*}", _unknown)

    async def _show(self, _: web.Request) -> web.Response:
        names = ("identifier", "meter", "customer", "value", "code")
        invalid = [dict(zip(names, event, strict=True)) for event in self._store.invalid_events()]
        shown: dict[str, object] = {"double": True, "rows": self._store.counts(), "invalid_events": invalid}
        if self._plan is not None:
            shown |= {"faults": dict(self._plan.drawn), "hanging": self._plan.hanging}
        return json_answer(shown)

    async def _order(self, request: web.Request) -> web.Response:
        assert self._plan is not None, "the route exists only with faults"
        order = await read_json(request, FaultOrder)
        if isinstance(order, Refusal):
            return error_answer(order)
        self._plan.obey(order)
        return json_answer({"ordered": True})


async def _unknown(request: web.Request) -> web.Response:
    message = f"The double does not know {request.method} {request.path}; it has billing meters and customers only."
    return error_answer(Refusal(404, "resource_missing", message))


@web.middleware
async def _says_what_it_is(request: web.Request, handler: Callable[..., object]) -> web.StreamResponse:
    response = await handler(request)  # type: ignore[misc]
    assert isinstance(response, web.StreamResponse), "every handler answers"
    response.headers[DOUBLE_HEADER] = "1"
    return response


@web.middleware
async def _authenticated(request: web.Request, handler: Callable[..., object]) -> web.StreamResponse:
    """Any key that looks like Stripe's opens it; none is refused as Stripe refuses it."""
    bearer = request.headers.get("Authorization", "").removeprefix("Bearer ")
    if request.path.startswith("/_double") or bearer.startswith(("sk_", "rk_")):
        response = await handler(request)  # type: ignore[misc]
        assert isinstance(response, web.StreamResponse), "every handler answers"
        return response
    return error_answer(Refusal(401, None, "You did not provide an API key."))

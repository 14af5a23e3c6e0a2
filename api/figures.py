"""Counts requests by route and status: around the whole application, so that no answer is left out."""

import time
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from observe.figures import FIGURES
from observe.metrics import API_REQUEST_S

__all__ = ["CountedRequests"]

_NO_ROUTE: Final = "none"
"""Of every path that is no route: a scanner must not make labels."""


class CountedRequests:
    """ASGI around ASGI."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began_s, status = time.perf_counter(), 500

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noted)
        finally:
            route = getattr(scope.get("route"), "path", _NO_ROUTE)
            FIGURES.observe(API_REQUEST_S, time.perf_counter() - began_s, route, status)

"""The FastAPI application: routes, and errors in their envelope."""

import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from api.accept import check_accept
from api.envelope import correlation_id, error_response
from api.errors import ApiError, BadRequest, MethodNotAllowed, NotFound, Unforeseen
from api.events import EventDoor
from api.figures import CountedRequests
from api.health_watch import HealthWatch
from api.openapi import get_openapi
from api.say import say
from api.usage import UsageDoor
from observe.api import ApiEvent

__all__ = ["Lifespan", "create_app"]

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def create_app(
    *,
    events: EventDoor,
    usage: UsageDoor,
    health: HealthWatch,
    now_ms: Callable[[], int],
    lifespan: Lifespan | None = None,
) -> FastAPI:
    """The application over its collaborators; it starts and stops nothing but what `lifespan` does."""
    app = FastAPI(
        title="meterlog",
        lifespan=lifespan,
        dependencies=[Depends(_acceptable)],
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,  # a redirect would be an answer outside the envelope, and loses a POST's body
    )
    app.add_middleware(CountedRequests)
    _answer_errors(app, now_ms)
    app.add_api_route("/v1/events", events.post, methods=["POST"])
    # `path`: customer ids may hold slashes. The route must stay the last below /v1/customers.
    app.add_api_route("/v1/customers/{customer_id:path}/usage", usage.get, methods=["GET"])
    app.add_api_route("/v1/health", health.get, methods=["GET"])
    app.add_api_route("/v1/openapi.json", get_openapi, methods=["GET"])
    return app


async def _acceptable(request: Request) -> None:
    check_accept(request.headers)


def _answer_errors(app: FastAPI, now_ms: Callable[[], int]) -> None:
    """Every error leaves in the envelope, whoever raised it."""

    async def answer(request: Request, exc: Exception) -> Response:
        correlation = correlation_id(request.headers)
        error = _as_api_error(request, exc)
        if isinstance(error, Unforeseen):
            say(
                ApiEvent.REQUEST_FAILED,
                level=logging.ERROR,
                path=request.url.path,
                error=type(exc).__name__,
                correlation_id=correlation,
            )
        return error_response(error, correlation, now_ms())

    for kind in (ApiError, ClientDisconnect, HTTPException, RequestValidationError, Exception):
        app.add_exception_handler(kind, answer)


def _as_api_error(request: Request, exc: Exception) -> ApiError:
    match exc:
        case ApiError():
            return exc
        case RequestValidationError():
            return _invalid(exc)
        case HTTPException(status_code=404):
            msg = f"{request.method} {request.url.path[:200]} is not a route; /v1/openapi.json lists them"
            return NotFound(msg)
        case HTTPException(status_code=405):
            allowed = (exc.headers or {}).get("Allow", "")
            msg = f"{request.method} is not taken here; {allowed} is"
            return MethodNotAllowed(msg, headers=exc.headers)
        case HTTPException(status_code=400):
            return BadRequest(str(exc.detail))
        case ClientDisconnect():
            return BadRequest("the connection ended before the body did")
        case _:
            return Unforeseen("something went wrong here; the log has it under this correlationId")


def _invalid(exc: RequestValidationError) -> BadRequest:
    """Every field that is wrong, by its name in the request."""
    details = {".".join(str(part) for part in error["loc"][1:]): error["msg"] for error in exc.errors()}
    return BadRequest(f"invalid: {', '.join(details)}", details=details)

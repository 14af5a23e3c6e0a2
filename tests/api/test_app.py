"""The application alone: what nobody foresaw leaves in the envelope too."""

from __future__ import annotations

import asyncio
import logging

import httpx
import pytest
from fastapi import FastAPI, Query
from starlette.exceptions import HTTPException

from api import app as app_module
from api.app import create_app
from api.clickhouse import ClickHouse
from api.event_log import EventLog
from api.events import EventDoor
from api.health import Bounds
from api.health_watch import HealthWatch
from api.key_ring import KeyRing
from api.lag import LagGauge
from api.settings import ApiSettings
from api.usage import UsageDoor
from schemas.topics import FOLD_GROUP, USAGE_EVENTS

NOW_MS = 1_795_267_200_000


def now_ms() -> int:
    return NOW_MS


@pytest.fixture
def application(broker: str) -> FastAPI:
    """The application with its real collaborators, none of them started."""
    settings = ApiSettings(broker)
    ring = KeyRing()
    log = EventLog(broker, USAGE_EVENTS, in_flight_max=10, ack_timeout_s=1, on_fatal=pytest.fail)
    clickhouse = ClickHouse(settings)
    gauge = LagGauge(broker, FOLD_GROUP)
    bounds = Bounds(fold_age_s_max=1, fold_lag_max=1, sink_age_s_max=1, stale_ms_max=1)
    return create_app(
        events=EventDoor(log, ring, now_ms, 1),
        usage=UsageDoor(clickhouse, ring, now_ms, 4),
        health=HealthWatch(gauge, clickhouse, ring, log, partitions=4, bounds=bounds, now_ms=now_ms),
        now_ms=now_ms,
    )


def get(application: FastAPI, path: str) -> httpx.Response:
    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(application, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
            return await client.get(path)

    return asyncio.run(ask())


def test_a_fault_of_ours_tells_the_caller_nothing_but_its_correlation(
    application: FastAPI, caplog: pytest.LogCaptureFixture
) -> None:
    @application.get("/v1/broken")
    async def broken() -> None:
        raise RuntimeError("the secret")

    with caplog.at_level(logging.ERROR, "meterlog.api"):
        answer = get(application, "/v1/broken")
    body = answer.json()
    assert (answer.status_code, body["error"]["code"]) == (500, "INTERNAL_ERROR")
    assert "secret" not in answer.text
    assert body["result"]["timestamp"] == "2026-11-21T13:20:00.000Z"
    assert body["correlationId"] in caplog.text


def test_fastapi_s_422_is_the_400_of_the_envelope(application: FastAPI) -> None:
    @application.get("/v1/typed")
    async def typed(number: int = Query(), other: int = Query()) -> None: ...

    answer = get(application, "/v1/typed?number=x")
    assert answer.status_code == 400
    assert set(answer.json()["error"]["details"]) == {"number", "other"}


def test_an_http_error_of_the_framework_is_enveloped(application: FastAPI) -> None:
    @application.get("/v1/framework")
    async def framework() -> None:
        raise HTTPException(400, "from the framework")

    answer = get(application, "/v1/framework")
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, "from the framework")


def test_health_is_red_before_it_is_measured(application: FastAPI) -> None:
    assert get(application, "/v1/health").status_code == 503


def test_a_request_with_a_key_waits_for_the_keys(application: FastAPI) -> None:
    answer = get(application, "/v1/customers/c/usage")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "NOT_READY")


def test_the_public_names_are_these() -> None:
    assert app_module.__all__ == ["Lifespan", "create_app"]


def test_settings_do_not_show_their_secret() -> None:
    assert "hidden" not in repr(ApiSettings("b:9092", clickhouse_password="hidden"))

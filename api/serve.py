"""The API as a process: its collaborators made, its server run."""

import logging
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import FrameType

import uvicorn
from fastapi import FastAPI

from api.app import create_app
from api.clickhouse import ClickHouse
from api.event_log import EventLog
from api.events import EventDoor
from api.health import Bounds
from api.health_watch import HealthWatch
from api.key_ring import KeyFollower, KeyRing
from api.lag import LagGauge
from api.say import say
from api.settings import ApiSettings
from api.usage import UsageDoor
from observe.api import ApiEvent
from schemas.topics import FOLD_GROUP, USAGE_EVENTS

__all__ = ["run"]

_STOP_WAIT_S = 15
_GAVE_UP_EXIT = 70
_STALE_MS_MAX = 15_000  # a measurement that waits for Kafka and for ClickHouse in vain takes 15 s


def run(settings: ApiSettings) -> int:
    """Serve until SIGTERM or Ctrl-C; requests that are being answered are finished first. Returns the exit status.

    When a part cannot go on, the process ends at once with 70: what was acknowledged is on the log, and whoever runs
    the process starts it anew.
    """
    app = _app(settings)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http="httptools",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_STOP_WAIT_S,
    )
    _Server(config).run()
    say(ApiEvent.STOPPED)
    return 0


class _Server(uvicorn.Server):
    """Ends cleanly on a signal: uvicorn itself would send the signal to the process again, and die of it."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Finish what is being answered, then return from `run`."""
        self.should_exit = True


def _app(settings: ApiSettings) -> FastAPI:
    ring = KeyRing()
    clickhouse = ClickHouse(settings)
    log = EventLog(
        settings.bootstrap_servers,
        USAGE_EVENTS,
        in_flight_max=settings.in_flight_events_max,
        ack_timeout_s=settings.ack_timeout_s,
        on_fatal=_give_up,
    )
    watch = HealthWatch(
        LagGauge(settings.bootstrap_servers, FOLD_GROUP),
        clickhouse,
        ring,
        log,
        partitions=settings.partitions,
        bounds=_bounds(settings),
        now_ms=_now_ms,
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        follower = KeyFollower(settings.bootstrap_servers, ring, _give_up)
        follower.start()
        watch.start()
        log.start()
        say(ApiEvent.STARTED, host=settings.host, port=settings.port)
        try:
            yield
        finally:
            watch.stop()
            follower.stop()
            log.close()
            clickhouse.close()

    return create_app(
        events=EventDoor(log, ring, _now_ms, settings.requests_max),
        usage=UsageDoor(clickhouse, ring, _now_ms, settings.partitions),
        health=watch,
        now_ms=_now_ms,
        lifespan=lifespan,
    )


def _bounds(settings: ApiSettings) -> Bounds:
    return Bounds(settings.fold_age_s_max, settings.fold_lag_max, settings.sink_age_s_max, _STALE_MS_MAX)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _give_up(reason: str) -> None:
    """End the process from any thread, now: a node that cannot produce or follow its keys must not look alive."""
    say(ApiEvent.GAVE_UP, level=logging.CRITICAL, reason=reason)
    logging.shutdown()
    os._exit(_GAVE_UP_EXIT)

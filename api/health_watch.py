"""Measures the pipeline's health in a thread of its own, so that asking for it costs nothing and never hangs."""

import logging
import threading
from collections.abc import Callable
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from api.clickhouse import ClickHouse, QueryFailed
from api.envelope import correlation_id, json_response
from api.health import Bounds, Health, Measured, judge_health
from api.key_ring import KeyRing
from api.lag import Lag, LagGauge, LogUnreachable
from api.say import say
from observe.api import ApiEvent
from schemas.topics import LEDGER, USAGE_EVENTS, USAGE_TOTALS

__all__ = ["HealthWatch"]

_INTERVAL_S: Final = 1.0
_POSITIONS: Final = "SELECT topic, partition, next_offset FROM positions"


class HealthWatch:
    """Keeps the last measurement. `start` begins the thread, `stop` ends it."""

    def __init__(
        self,
        gauge: LagGauge,
        clickhouse: ClickHouse,
        ring: KeyRing,
        *,
        partitions: int,
        bounds: Bounds,
        now_ms: Callable[[], int],
    ) -> None:
        self._gauge = gauge
        self._clickhouse = clickhouse
        self._ring = ring
        self._partitions = partitions
        self._bounds = bounds
        self._now_ms = now_ms
        self._measured: Measured | None = None
        self._status = ""
        self._clickhouse_said = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="api-health", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread, and wait until it has let go of its connections."""
        self._stop.set()
        self._thread.join()

    def health(self) -> Health:
        """Health as of now."""
        return judge_health(self._measured, self._bounds, self._now_ms())

    async def get(self, request: Request) -> Response:
        """GET /v1/health, for probes: without a key."""
        health = self.health()
        return json_response(200 if health.status == "green" else 503, health, correlation_id(request.headers))

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self._measured = self._measure()
                self._tell()
                self._stop.wait(_INTERVAL_S)
        finally:
            self._gauge.close()

    def _measure(self) -> Measured:
        fold, kafka_error = self._fold_lag()
        sink, clickhouse_error = self._sink_lag() if kafka_error is None else (None, self._clickhouse_error())
        return Measured(self._now_ms(), self._ring.loaded.is_set(), fold, kafka_error, sink, clickhouse_error)

    def _fold_lag(self) -> tuple[Lag | None, str | None]:
        try:
            return self._gauge.of_group(USAGE_EVENTS, self._partitions), None
        except LogUnreachable as exc:
            return None, str(exc)

    def _sink_lag(self) -> tuple[Lag | None, str | None]:
        try:
            rows = self._clickhouse.rows(_POSITIONS, {})
        except QueryFailed as exc:
            return None, self._said(exc)
        stored = {(topic, number): next_offset for topic, number, next_offset in rows}
        places = [(topic, number) for topic in (LEDGER, USAGE_TOTALS) for number in range(self._partitions)]
        try:
            return self._gauge.of_offsets({place: stored.get(place, 0) for place in places}), None
        except LogUnreachable:
            return None, None  # said by the fold's lag at the next measurement, if it lasts

    def _clickhouse_error(self) -> str | None:
        try:
            self._clickhouse.rows("SELECT 1", {})
        except QueryFailed as exc:
            return self._said(exc)
        return None

    def _said(self, exc: QueryFailed) -> str:
        """Health is public: it says that ClickHouse fails. The log says how, once and not at every measurement."""
        if str(exc) != self._clickhouse_said:
            self._clickhouse_said = str(exc)
            say(ApiEvent.CLICKHOUSE_FAILED, level=logging.ERROR, reason=self._clickhouse_said)
        return "does not answer, or lacks the sink's tables"

    def _tell(self) -> None:
        health = self.health()
        if health.status != self._status:
            self._status = health.status
            say(ApiEvent.HEALTH_CHANGED, status=health.status, reasons=health.reasons)

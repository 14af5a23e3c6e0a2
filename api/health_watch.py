"""Measures the pipeline's health in a thread of its own, so that asking for it costs nothing and never hangs."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from api.clickhouse import ClickHouse, QueryFailed
from api.envelope import correlation_id, json_response
from api.event_log import EventLog
from api.health import Behind, Bounds, Health, Measured, behind, judge, to_health
from api.key_ring import KeyRing
from api.lag import LagGauge, LogUnreachable
from api.say import say
from observe.api import ApiEvent
from observe.figures import FIGURES
from observe.health import HEALTH, CheckState, HealthBoard
from observe.metrics import (
    API_FOLD_LAG,
    API_FOLD_WAITING_S,
    API_IN_FLIGHT,
    API_KEY_RING_AGE_S,
    API_KEYS,
    API_SINK_WAITING_S,
)
from observe.waiting import Waiting
from schemas.topics import CONTROL, LEDGER, USAGE_EVENTS, USAGE_TOTALS

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
        log: EventLog,
        *,
        partitions: int,
        bounds: Bounds,
        now_ms: Callable[[], int],
        board: HealthBoard = HEALTH,
    ) -> None:
        self._gauge = gauge
        self._clickhouse = clickhouse
        self._ring = ring
        self._log = log
        self._partitions = partitions
        self._bounds = bounds
        self._now_ms = now_ms
        self._board = board
        self._waiting = Waiting()
        self._keys_known_s = time.monotonic()
        self._measured: Measured | None = None
        self._status = ""
        self._clickhouse_said = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="api-health", daemon=True)

    def start(self) -> None:
        self._board.refresh.append(self.health)
        self._thread.start()

    def stop(self) -> None:
        """End the thread, and wait until it has let go of its connections."""
        self._stop.set()
        self._thread.join()

    def health(self) -> Health:
        """Health as of now."""
        measured = self._measured
        judged = judge(measured, self._bounds, self._now_ms())
        for check in judged:
            self._board.report(*check)
        told = {check.name for check in judged}
        return to_health(measured, tuple(check for check in self._board.last() if check.name in told))

    async def get(self, request: Request) -> Response:
        """GET /v1/health, for probes: without a key. Yellow is 200: events are taken and counted."""
        health = self.health()
        return json_response(503 if health.status == CheckState.RED else 200, health, correlation_id(request.headers))

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self._measured = self._measure()
                self._tell(self._measured)
                self._stop.wait(_INTERVAL_S)
        finally:
            self._gauge.close()

    def _measure(self) -> Measured:
        fold, stands, kafka_error = self._fold()
        sink, clickhouse_error = self._sink() if kafka_error is None else (None, self._clickhouse_error())
        return Measured(
            measured_at_ms=self._now_ms(),
            keys_loaded=self._ring.loaded.is_set(),
            keys_age_s=self._keys_age_s(can_ask=kafka_error is None),
            fold=fold,
            stands=stands,
            kafka_error=kafka_error,
            sink=sink,
            clickhouse_error=clickhouse_error,
            refused=self._log.refused(),
        )

    def _fold(self) -> tuple[Behind | None, tuple[str, ...], str | None]:
        try:
            lag = self._gauge.of_group(USAGE_EVENTS, self._partitions)
        except LogUnreachable as exc:
            return None, (), str(exc)
        stands = tuple(f"partition {number} {note}" for number, note in sorted(lag.notes.items()))
        return behind(lag, self._waiting, time.monotonic(), self._now_ms()), stands, None

    def _sink(self) -> tuple[Behind | None, str | None]:
        try:
            rows = self._clickhouse.rows(_POSITIONS, {})
        except QueryFailed as exc:
            return None, self._said(exc)
        stored = {(topic, number): next_offset for topic, number, next_offset in rows}
        places = [(topic, number) for topic in (LEDGER, USAGE_TOTALS) for number in range(self._partitions)]
        try:
            lag = self._gauge.of_offsets({place: stored.get(place, 0) for place in places})
        except LogUnreachable:
            return None, None  # said by the fold's lag at the next measurement, if it lasts
        return behind(lag, self._waiting, time.monotonic(), self._now_ms()), None

    def _keys_age_s(self, *, can_ask: bool) -> float:
        """How long ago the ring had everything that `control` has."""
        if can_ask and self._ring.loaded.is_set():
            try:
                if self._ring.next_offset >= self._gauge.end_of((CONTROL, 0)):
                    self._keys_known_s = time.monotonic()
            except LogUnreachable:
                pass  # what is not known ages
        return time.monotonic() - self._keys_known_s

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

    def _tell(self, measured: Measured) -> None:
        FIGURES.set(API_KEYS, len(self._ring))
        FIGURES.set(API_KEY_RING_AGE_S, measured.keys_age_s)
        FIGURES.set(API_IN_FLIGHT, self._log.in_flight)
        if measured.fold is not None:
            FIGURES.set(API_FOLD_LAG, measured.fold.record_count)
            FIGURES.set(API_FOLD_WAITING_S, measured.fold.age_s)
        if measured.sink is not None:
            FIGURES.set(API_SINK_WAITING_S, measured.sink.age_s)
        health = self.health()
        if health.status != self._status:
            self._status = health.status
            say(ApiEvent.HEALTH_CHANGED, status=health.status, reasons=health.reasons)

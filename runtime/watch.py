"""What a process shows of itself over HTTP, beside its work: `/metrics`, `/health` and `/livez`.

    /metrics    for Prometheus: the figures that `observe.metrics` declares for the process's role, and the process's own
    /health     its checks as JSON, each with name, state, since, message and what to do: 503 when one is red
    /livez      503 when the main loop hangs: whoever runs the process should restart it then, and never for a red check

A thread answers, from what the process has noted: a hanging main loop does not make it silent.
"""

import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, Final

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.metrics_core import (
    Metric as Family,
)
from prometheus_client.registry import Collector

from observe.figures import FIGURES, Figures
from observe.health import HEALTH, Check, CheckState, HealthBoard, worst_of
from observe.log import LogLine, ProcessEvent
from observe.metrics import CHECK_STATE, METRICS, STALL_S, Kind, Metric, Role
from runtime.errors import CommandError
from runtime.settings import Settings
from schemas.timestamps import timestamp

__all__ = ["Exposition", "Watch", "start_watch"]

_LOOK_S: Final = 1.0
"""How often the checks are looked at when nobody asks, so that the log and `since` have a change."""
_log = logging.getLogger("meterlog")
_LEVELS: Final = {CheckState.GREEN: logging.INFO, CheckState.YELLOW: logging.WARNING, CheckState.RED: logging.ERROR}


def start_watch(role: Role, settings: Settings) -> "Watch | None":
    """Serve for as long as the process lives, where the settings name a port. Raises CommandError: the port is taken."""
    HEALTH.on_change = _say_change
    if settings.metrics_port is None:
        return None
    try:
        return Watch(role, settings.metrics_host, settings.metrics_port, settings.health_stall_s_max)
    except OSError as exc:
        message = (
            f"METERLOG_METRICS_PORT: nothing can listen on {settings.metrics_host}:{settings.metrics_port} ({exc})"
        )
        raise CommandError(message) from exc


class Watch:
    """The server and its threads; all of them end with the process."""

    def __init__(
        self,
        role: Role,
        host: str,
        port: int,
        stall_s_max: float,
        figures: Figures = FIGURES,
        board: HealthBoard = HEALTH,
    ) -> None:
        """Raises OSError."""
        self._board = board
        self._stall_s_max = stall_s_max
        self._figures = figures
        self._registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self._registry)
        self._registry.register(Exposition(role, figures))
        self._stop = threading.Event()
        self._server = _Server((host, port), type("Handler", (_Handler,), {"watch": self}))
        self.port: int = self._server.server_address[1]
        self.url = f"http://{host}:{self.port}"
        threading.Thread(target=self._server.serve_forever, name="watch", daemon=True).start()
        threading.Thread(target=self._look, name="watch-checks", daemon=True).start()
        _log.info(LogLine(ProcessEvent.WATCHED, {"url": self.url}))

    def close(self) -> None:
        """For tests: processes just end."""
        self._stop.set()
        self._server.shutdown()
        self._server.server_close()

    def checks(self) -> tuple[Check, ...]:
        """As they stand now; the metric says the same."""
        found = self._board.checks(self._stall_s_max)
        self._figures.set(STALL_S, self._board.stalled_s())
        self._figures.set_all(CHECK_STATE, {(check.name,): check.state.rank for check in found})
        return found

    def answer(self, path: str, accept: str) -> tuple[int, str, bytes]:
        """Status, content type and body."""
        match path:
            case "/metrics":
                self.checks()
                encoder, content_type = choose_encoder(accept)
                return 200, content_type, encoder(self._registry)
            case "/health":
                found = self.checks()
                status = worst_of(found)
                body = {"status": status, "checks": [_shown(check) for check in found]}
                return 503 if status is CheckState.RED else 200, "application/json", json.dumps(body, indent=2).encode()
            case "/livez":
                stalled_s = self._board.stalled_s()
                is_alive = stalled_s <= self._stall_s_max
                told = {"alive": is_alive, "stalled_s": stalled_s}
                return 200 if is_alive else 503, "application/json", json.dumps(told).encode()
            case _:
                return 404, "text/plain", b"/metrics, /health and /livez are here\n"

    def _look(self) -> None:
        while not self._stop.wait(_LOOK_S):
            self.checks()


class Exposition(Collector):
    """The declared metrics of a role, in Prometheus' form."""

    def __init__(self, role: Role, figures: Figures) -> None:
        self._metrics = [metric for metric in METRICS if metric.role in (role, Role.ANY)]
        self._figures = figures

    def collect(self) -> Iterator[Family]:
        return (_family(metric, self._figures) for metric in self._metrics)


def _family(metric: Metric, figures: Figures) -> Family:
    match metric.kind:
        case Kind.HISTOGRAM:
            histogram = HistogramMetricFamily(metric.name, metric.meaning, labels=metric.labels)
            for labels, (counts, total) in figures.histograms(metric):
                histogram.add_metric(labels, _buckets(metric, counts), total)
            return histogram
        case Kind.COUNTER:
            numbers: Any = CounterMetricFamily(metric.name, metric.meaning, labels=metric.labels)
        case Kind.GAUGE:
            numbers = GaugeMetricFamily(metric.name, metric.meaning, labels=metric.labels)
    for labels, value in figures.numbers(metric).items():
        numbers.add_metric(labels, value)
    return numbers  # type: ignore[no-any-return]


def _buckets(metric: Metric, counts: tuple[int, ...]) -> list[tuple[str, float]]:
    """Cumulative, as Prometheus wants them."""
    found, so_far = [], 0
    for bound, count in zip((*map(str, metric.bounds), "+Inf"), counts, strict=True):
        so_far += count
        found.append((bound, float(so_far)))
    return found


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A caller that hangs up is no concern of the process's."""


class _Handler(BaseHTTPRequestHandler):
    watch: ClassVar[Watch]
    timeout = 10

    def do_GET(self) -> None:
        status, content_type, body = self.watch.answer(self.path.partition("?")[0], self.headers.get("Accept", ""))
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Probes come every few seconds: nobody wants to read of them."""


def _shown(check: Check) -> dict[str, str]:
    shown = {"name": check.name, "state": check.state, "since": timestamp(check.since_ms)}
    return shown | {name: text for name, text in (("message", check.message), ("do", check.do)) if text}


def _say_change(check: Check) -> None:
    fields = {"check": check.name, "state": check.state, "message": check.message or None, "do": check.do or None}
    _log.log(_LEVELS[check.state], LogLine(ProcessEvent.CHECK_CHANGED, fields))

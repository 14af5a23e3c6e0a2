"""Wires each process from the settings: the one place that picks what a room's ports are made of."""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit

from billing.catalog.builtin import BUILTIN_CATALOG
from billing.catalog.types import Catalog
from billing.errors import InvalidField
from observe.metrics import Role
from runtime.errors import CommandError
from runtime.log_lines import set_up_logging
from runtime.settings import Settings
from runtime.watch import start_watch

__all__ = [
    "create_api_key",
    "list_api_keys",
    "now_ms",
    "revoke_api_key",
    "run_api_process",
    "run_clickhouse_sink",
    "run_embedded_clickhouse",
    "run_embedded_stripe",
    "run_forwarder_process",
    "run_stripe_sink",
    "run_worker_process",
]

T = TypeVar("T")


def now_ms() -> int:
    """The wall clock, which nothing but the edges may read."""
    return time.time_ns() // 1_000_000


def _begin(role: Role, settings: Settings) -> None:
    """What every process of a deployment does first. Raises CommandError."""
    set_up_logging(role, settings)
    start_watch(role, settings)


def run_worker_process(settings: Settings, catalog: Catalog = BUILTIN_CATALOG) -> int:
    """`meterlog worker`: the fold, and the ticks of the partitions that it owns."""
    from streams.engine import Engine
    from streams.errors import RefusedToStart
    from streams.options import Options
    from streams.ticker import Ticker
    from streams.usage import UsageFold
    from streams.watch import WatchBounds, WorkerWatch
    from streams.worker import run_worker

    _begin(Role.WORKER, settings)
    options = Options(
        bootstrap_servers=settings.bootstrap_servers,
        data_dir=settings.data_dir / "worker",
        instance_id=settings.worker_instance_id,
        session_timeout_s=settings.worker_session_timeout_s,
        standby_replicas=settings.worker_standby_replicas,
    )

    bounds = WatchBounds(settings.health_fold_age_s_max, settings.health_take_over_s_max)

    async def beside(engine: Engine) -> None:
        ticker = Ticker(engine.partitions, engine.append, now_ms, engine.needs_tick)  # type: ignore[arg-type]
        await asyncio.gather(ticker.run(), WorkerWatch(engine, bounds, now_ms).run())

    try:
        return run_worker(options, UsageFold(catalog), beside=beside)
    except RefusedToStart as exc:
        raise CommandError(str(exc)) from exc


def run_forwarder_process(settings: Settings, stop: threading.Event) -> int:
    """`meterlog forwarder`."""
    from sinks.forward.process import run
    from sinks.forward.settings import ForwarderSettings

    _begin(Role.FORWARDER, settings)
    forwarder = ForwarderSettings(
        bootstrap_servers=settings.bootstrap_servers,
        window=settings.forwarder_window,
        rate_max_per_s=settings.forwarder_rate_max,
    )
    return run(forwarder, stop)


def run_api_process(settings: Settings, host: str, port: int) -> int:
    """`meterlog api`."""
    from api.serve import run
    from api.settings import ApiSettings

    _begin(Role.API, settings)
    return run(
        ApiSettings(
            bootstrap_servers=settings.bootstrap_servers,
            host=host,
            port=port,
            partitions=settings.partitions,
            clickhouse_url=settings.clickhouse_url,
            clickhouse_user=settings.clickhouse_user,
            clickhouse_password=settings.clickhouse_password.get_secret_value(),
            fold_lag_max=settings.health_fold_lag_max,
            fold_age_s_max=settings.health_fold_age_s_max,
            sink_age_s_max=settings.health_sink_age_s_max,
        )
    )


def run_clickhouse_sink(settings: Settings, stop: threading.Event) -> int:
    """`meterlog sink clickhouse`."""
    from sinks.clickhouse.settings import SinkSettings
    from sinks.clickhouse.sink import run

    _begin(Role.CLICKHOUSE_SINK, settings)
    sink = SinkSettings(
        bootstrap_servers=settings.bootstrap_servers,
        clickhouse_url=settings.clickhouse_url,
        clickhouse_user=settings.clickhouse_user,
        clickhouse_password=settings.clickhouse_password.get_secret_value(),
        age_s_max=settings.health_sink_age_s_max,
    )
    return run(sink, stop)


def run_stripe_sink(settings: Settings, stop: threading.Event) -> int:
    """`meterlog sink stripe`."""
    from runtime.stripe_books import stripe_key
    from sinks.stripe.sink import StripeSinkConfig, run

    _begin(Role.STRIPE_SINK, settings)
    config = StripeSinkConfig(
        bootstrap_servers=settings.bootstrap_servers,
        api_key=stripe_key(settings),
        url=settings.stripe_url,
        send_interval_s=settings.stripe_send_interval_s,
        age_s_max=settings.health_sink_age_s_max,
    )
    return run(config, stop)


def run_embedded_clickhouse(settings: Settings) -> None:
    """`meterlog embedded clickhouse`: at the address that the stack's file names."""
    from runtime.embedded.clickhouse import serve

    set_up_logging("embedded clickhouse", settings)
    password = settings.clickhouse_password.get_secret_value()
    serve(settings.data_dir / "clickhouse", _port_of(settings.clickhouse_url), password)


def run_embedded_stripe(settings: Settings, stop: threading.Event) -> int:
    """`meterlog embedded stripe`: likewise."""
    from runtime.embedded.stripe import serve

    set_up_logging("embedded stripe", settings)
    return serve(settings.data_dir / "stripe", _port_of(settings.stripe_url or ""), stop)


def _port_of(url: str) -> int:
    port = urlsplit(url).port
    assert port is not None, "the stack gives each of its parts a port"
    return port


def create_api_key(settings: Settings, org: str, scopes: str) -> dict[str, Any]:
    """`meterlog keys create`."""
    from api.keys import create_key

    return _refusable(lambda: create_key(settings.bootstrap_servers, org, scopes.split(","), now_ms()))


def list_api_keys(settings: Settings, org: str | None) -> list[dict[str, Any]]:
    """`meterlog keys list`."""
    from api.keys import list_keys

    return _refusable(lambda: list_keys(settings.bootstrap_servers, org))


def revoke_api_key(settings: Settings, key_id: str) -> dict[str, Any]:
    """`meterlog keys revoke`."""
    from api.keys import revoke_key

    return _refusable(lambda: revoke_key(settings.bootstrap_servers, key_id, now_ms()))


def _refusable(action: Callable[[], T]) -> T:
    """What a key command refuses is for the person who typed it."""
    from api.errors import KeysError

    try:
        return action()
    except (KeysError, InvalidField) as exc:
        raise CommandError(str(exc)) from exc

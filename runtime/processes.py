"""Wires each process from the settings: the one place that picks what a room's ports are made of."""

import logging
import sys
import time

from billing.catalog.builtin import BUILTIN_CATALOG
from runtime.settings import Settings

__all__ = ["now_ms", "run_worker_process"]

_LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"


def now_ms() -> int:
    """The wall clock, which nothing but the edges may read."""
    return time.time_ns() // 1_000_000


def set_up_logging() -> None:
    """Lines on stderr: whoever runs the process decides where they go."""
    logging.basicConfig(level=logging.INFO, format=_LOG_FORMAT, stream=sys.stderr)


def run_worker_process(settings: Settings) -> int:
    """`meterlog worker`: the fold, and the ticks of the partitions that it owns."""
    from streams.engine import Engine
    from streams.options import Options
    from streams.ticker import Ticker
    from streams.usage import UsageFold
    from streams.worker import run_worker

    set_up_logging()
    options = Options(
        bootstrap_servers=settings.bootstrap_servers,
        data_dir=settings.data_dir / "worker",
        instance_id=settings.worker_instance_id,
        session_timeout_s=settings.worker_session_timeout_s,
    )

    async def tick(engine: Engine) -> None:
        await Ticker(engine.partitions, engine.append, now_ms).run()  # type: ignore[arg-type]

    return run_worker(options, UsageFold(BUILTIN_CATALOG), beside=tick)

"""A worker's life: the checks before it, signals, and an end that takes no longer than it was given."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, NoReturn, TypeVar

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError

from observe.streams import StreamsEvent
from streams.app import FoldApp, build_app
from streams.engine import Engine
from streams.epoch import Gap, no_gap
from streams.errors import BrokerUnreachable, TopicsUnfit
from streams.exit import ends_process, say
from streams.lock import hold_directory
from streams.options import Options
from streams.port import Fold

__all__ = ["Beside", "run_worker"]

T = TypeVar("T")
Beside = Callable[[Engine], Awaitable[None]]

_NOISY_LOGGERS = ("faust", "mode", "aiokafka", "streams")  # the last: services of ours, logged by mode
_CHECK_TIMEOUT_S = 15.0


def run_worker(options: Options, fold: Fold, beside: Beside | None = None, gap: Gap = no_gap) -> int:
    """Fold until SIGTERM or SIGINT; gives the exit code 0 once the worker has stopped.

    `beside` runs on the worker's loop from the start to the stop (the ticker); what it raises ends the process, as
    does every surprise, with code 70. Raises RefusedToStart: DirectoryInUse, BrokerUnreachable, TopicsUnfit.
    A stop that cannot end in time (the broker is away) ends the process with code 0: what is not committed was
    promised to nobody.
    """
    quiet_libraries()
    with hold_directory(options.data_dir):
        asyncio.run(_serve(options, fold, beside, gap))
    return 0


def quiet_libraries() -> None:
    """Faust prints tables of offsets at each rebalance, and errors that are ours to judge."""
    for name in _NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)


async def _serve(options: Options, fold: Fold, beside: Beside | None, gap: Gap) -> None:
    stopping = _stop_signal()
    partitions = await _unless(stopping, check_topics(options))
    if partitions is None:
        return
    app = build_app(options, fold, partitions, gap)
    _tune_collector()
    say(StreamsEvent.STARTING, group=options.group, partitions=partitions, data_dir=options.data_dir)
    starting = asyncio.create_task(ends_process(app.start(), "the start of Faust"))
    companion = (
        None if beside is None else asyncio.create_task(ends_process(beside(app.engine), "work beside the fold"))
    )
    sweeping = asyncio.create_task(ends_process(app.sweep(fold), "sweeping expired rows"))
    await stopping.wait()
    say(StreamsEvent.STOPPING, **app.engine.snapshot()._asdict())
    await _cancel(sweeping)
    await _cancel(companion)
    await _stop(app, options.stop_timeout_s)
    await _cancel(starting)
    say(StreamsEvent.STOPPED, records=app.engine.snapshot().record_count)


def _tune_collector() -> None:
    """The collector walks the rows and facts of a whole epoch to find no cycles: 14 % of the fold's time by default."""
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)


def _stop_signal() -> asyncio.Event:
    """Set by SIGTERM and SIGINT, however often they come."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    return stopping


async def _unless(stopping: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """What `work` gives, or None when the stop came first."""
    task, stop = asyncio.create_task(work), asyncio.create_task(stopping.wait())
    await asyncio.wait((task, stop), return_when=asyncio.FIRST_COMPLETED)
    await _cancel(stop)
    if task.done():
        return task.result()
    await _cancel(task)
    return None


async def _cancel(task: asyncio.Task[Any] | None) -> None:
    if task is not None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _stop(app: FoldApp, timeout_s: float) -> None:
    """Drain, commit, leave the group; past the time limit the process ends as it is."""
    try:
        async with asyncio.timeout(timeout_s):
            await app.stop()
    except TimeoutError:
        say(StreamsEvent.STOP_CUT_SHORT, logging.WARNING, after_s=timeout_s)
        _leave_now()


def _leave_now() -> NoReturn:
    """Exit code 0 without waiting for threads that wait for a broker. All that counts is committed."""
    logging.shutdown()
    os._exit(0)


async def check_topics(options: Options) -> int:
    """The partition count that all topics share. Raises BrokerUnreachable, TopicsUnfit."""
    client = AIOKafkaClient(bootstrap_servers=options.bootstrap_servers)
    try:
        async with asyncio.timeout(_CHECK_TIMEOUT_S):
            await client.bootstrap()
            cluster = await client.fetch_all_metadata()
    except (KafkaError, TimeoutError) as exc:
        message = f"no broker answers at {options.bootstrap_servers} ({exc or type(exc).__name__})"
        raise BrokerUnreachable(message) from exc
    finally:
        await client.close()
    counts = {topic: len(cluster.partitions_for_topic(topic) or ()) for topic in options.topics.all}
    return _shared_count(counts, options.topics.source)


def _shared_count(counts: dict[str, int], source: str) -> int:
    """Raises TopicsUnfit, naming each topic that is missing or has another count than the source."""
    missing = [topic for topic, count in counts.items() if not count]
    if missing:
        message = f"missing topics: {', '.join(missing)}; make them with: meterlog topics create"
        raise TopicsUnfit(message)
    odd = {topic: count for topic, count in counts.items() if count != counts[source]}
    if odd:
        message = f"{source} has {counts[source]} partitions, but {odd}: a partition's outputs keep its number"
        raise TopicsUnfit(message)
    return counts[source]

"""The Stripe sink's process: reads both topics, then tells Stripe what is due, round after round, until it is stopped."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from observe.log import LogLine
from observe.stripe_sink import StripeSinkEvent
from schemas.intents import Target
from sinks.stripe.client import StripeMeters, target_of
from sinks.stripe.errors import Misconfigured, Replaced, TryAgain
from sinks.stripe.log import IntentLog, TotalsReader, intents_since, read_intents
from sinks.stripe.port import MeterInfo, Meters
from sinks.stripe.state import Rules, SinkState, is_unusable
from sinks.stripe.watch import SinkWatch
from sinks.stripe.writer import RoundDone, Writer

__all__ = ["EXIT_BROKEN", "EXIT_MISCONFIGURED", "StripeSinkConfig", "run", "system_clock_ms"]

EXIT_MISCONFIGURED: Final = 78
"""A person must change a setting first; starting again changes nothing."""
EXIT_BROKEN: Final = 70
"""Replaced, or something unexpected: the next process continues from the log."""
_POLL_MS_MAX: Final = 250  # how late a stop or a due window may be noticed
_STOP_POLL_S: Final = 0.05
_STOP_GRACE_S: Final = 2.0
"""How long a round may take to end once a stop was asked for; what is cut off stays pending."""
_CLOSE_S: Final = 0.7
_FORGET_EVERY_MS: Final = 3_600_000

_logger = logging.getLogger("meterlog.sinks.stripe")
_LEVELS: Final[dict[StripeSinkEvent, int]] = {
    "sink.stripe.refused": logging.WARNING,
    "sink.stripe.unlinked": logging.WARNING,
    "sink.stripe.unknown": logging.WARNING,
    "sink.stripe.misconfigured": logging.ERROR,
    "sink.stripe.replaced": logging.ERROR,
    "sink.stripe.broken": logging.CRITICAL,
}


@dataclass(frozen=True, slots=True)
class StripeSinkConfig:
    """What the sink is told from outside."""

    bootstrap_servers: str
    api_key: str | None = field(repr=False)
    """None: a dry run against the double at `url`."""
    url: str | None = None
    """Another server than Stripe's. None: Stripe's own."""
    send_interval_s: float = 60.0
    """A window whose total changes is told at most this often."""
    request_timeout_s: float = 10.0
    """When a request counts as unanswered. It is then repeated, so that a short one costs repeats and nothing else."""
    round_intents_max: int = 1_000
    """Of one transaction: a second's worth at `rate_per_s`."""
    concurrency: int = 64
    """Requests under way at once, each of another customer and meter."""
    rate_per_s: float = 1_000.0
    """Stripe's limit for meter events."""
    meters_retry_s: float = 10.0
    """How often a meter that is missing or takes no totals is looked up again."""
    age_s_max: float = 60.0
    """A total that is due, or pending, for longer makes health red."""


def run(config: StripeSinkConfig, stop: threading.Event) -> int:
    """Run the sink until `stop` is set; the process's exit code. Ends within 5 seconds of it.

    Whatever moment it ends at, by whatever means, the next one continues: what it knows is on the log.
    """
    try:
        asyncio.run(_until_stopped(config, stop))
    except Misconfigured as exc:
        _say("sink.stripe.misconfigured", why=exc)
        return EXIT_MISCONFIGURED
    except Replaced as exc:
        _say("sink.stripe.replaced", why=exc)
        return EXIT_BROKEN
    except Exception as exc:  # noqa: BLE001  the next process continues from the log
        _say("sink.stripe.broken", exc, why=f"{type(exc).__name__}: {exc}")
        return EXIT_BROKEN
    return 0


def system_clock_ms() -> int:
    return time.time_ns() // 1_000_000


class StripeSink:
    """One run: `prepare` once, then `step` again and again."""

    def __init__(
        self,
        config: StripeSinkConfig,
        meters: Meters,
        totals: TotalsReader,
        intents: IntentLog,
        clock_ms: Callable[[], int] = system_clock_ms,
    ) -> None:
        self._config = config
        self._meters = meters
        self._totals = totals
        self._clock_ms = clock_ms
        self.state = SinkState(target_of(config.api_key))
        self.writer = Writer(
            self.state,
            meters,
            intents.commit,
            _say,
            clock_ms=clock_ms,
            concurrency=config.concurrency,
            rate_per_s=config.rate_per_s,
        )
        self._watch = SinkWatch(config.age_s_max)
        self._infos: Mapping[str, MeterInfo] | None = None
        self._looked_up: set[str] = set()
        self._look_again_s = 0.0
        self._is_doubtful = False
        """Stripe refused something since its meters were read: one may be archived by now."""
        self._forgot_ms = 0
        """Never: the first step forgets, before it tells. Compaction may have kept rows of hours that Stripe takes no more."""

    async def prepare(self) -> None:
        """Know what was told, then what is to be told. Nothing is sent before both are read to their ends."""
        began_s = time.monotonic()
        async for records in read_intents(self._config.bootstrap_servers, intents_since(self._clock_ms())):
            for record in records:
                self.state.saw(record)
            self.state.rest_all()
        async for totals in self._totals.read_to_end():
            for total in totals:
                self.state.saw_total(total)
            self.state.rest_all()
        await self._read_meters()
        _say(
            "sink.stripe.ready",
            windows=len(self.state.windows),
            pending=self.state.pending_count,
            read_s=round(time.monotonic() - began_s, 3),
        )

    async def step(self) -> RoundDone | None:
        """Read what has come, and tell what is due; None when nothing was."""
        done = await self._tell_what_is_due()
        if self._watch.is_time(time.monotonic()):
            positions = await self._totals.positions()
            self._watch.show(self.state, positions, self._totals.ends(), time.monotonic(), self._clock_ms())
        return done

    async def _tell_what_is_due(self) -> RoundDone | None:
        for total in await self._totals.poll(self._poll_ms()):
            self.state.saw_total(total)
        infos = await self._read_meters_if_needed()
        now_ms = self._clock_ms()
        if now_ms - self._forgot_ms > _FORGET_EVERY_MS:
            self.state.forget_old(now_ms)
            self._forgot_ms = now_ms
        if infos is None:
            self._watch.looked(time.monotonic(), has_more=self.state.next_due_ms() is not None)
            return None
        rules = Rules(self.state.target, round(self._config.send_interval_s * 1_000), infos)
        due = self.state.take_due(rules, now_ms, self._config.round_intents_max)
        self._watch.looked(time.monotonic(), has_more=len(due) == self._config.round_intents_max)
        if not due:
            return None
        began_s = time.monotonic()
        done = await self.writer.round(due, infos, await self._totals.positions())
        self._is_doubtful = self._is_doubtful or done.refused > 0
        took_s = time.monotonic() - began_s
        self._watch.round_done(done, took_s)
        _say("sink.stripe.round_done", **done._asdict(), took_ms=round(took_s * 1_000))
        return done

    def _poll_ms(self) -> int:
        """How long to wait for new totals: until something is due, but not so long that a stop goes unheard."""
        due_ms = self.state.next_due_ms()
        if due_ms is None or self._infos is None:
            return _POLL_MS_MAX  # without Stripe's meters nothing can be told, due or not
        return min(max(due_ms - self._clock_ms(), 0), _POLL_MS_MAX)

    async def _read_meters_if_needed(self) -> Mapping[str, MeterInfo] | None:
        """Stripe's meters, None until they could be read once: an unknown meter must not be taken for a missing one.

        One that is new to us is looked up at once; one that takes no totals again and again, until it does.
        """
        infos = self._infos
        missing = {name for name in self.state.event_names if infos is None or is_unusable(infos.get(name))}
        is_time = time.monotonic() >= self._look_again_s
        wants = infos is None or missing or self._is_doubtful
        if (wants and is_time) or (missing - self._looked_up):
            await self._read_meters()
        return self._infos

    async def _read_meters(self) -> None:
        self._look_again_s = time.monotonic() + self._config.meters_retry_s
        self._looked_up = set(self.state.event_names)
        try:
            infos = await self._meters.meters()
        except TryAgain as exc:
            _say("sink.stripe.unknown", why=exc)
            self._watch.no_answer(exc)
            return
        self._watch.answered()
        self._is_doubtful = False
        before = self._infos or {}
        for name, info in infos.items():
            if not is_unusable(info) and is_unusable(before.get(name)):
                self.state.saw_meter_mended(name)
        self._infos = infos
        unusable = sorted(name for name in self._looked_up if is_unusable(infos.get(name)))
        _say("sink.stripe.meters_read", usable=len(infos) - len(unusable), unusable=unusable)


async def _until_stopped(config: StripeSinkConfig, stop: threading.Event) -> None:
    """Work until `stop` is set, then let the round under way end, for a while."""
    work = asyncio.create_task(_work(config, stop))
    while not stop.is_set() and not work.done():
        await asyncio.wait([work], timeout=_STOP_POLL_S)
    await asyncio.wait([work], timeout=_STOP_GRACE_S)
    if not work.done():
        work.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await work


async def _work(config: StripeSinkConfig, stop: threading.Event) -> None:
    target = target_of(config.api_key)
    note = "a dry run: nothing reaches Stripe" if target is Target.DOUBLE else None
    _say("sink.stripe.starting", target=target, url=config.url, interval_s=config.send_interval_s, note=note)
    async with contextlib.AsyncExitStack() as stack:
        meters = StripeMeters(config.api_key, config.url, config.request_timeout_s)
        stack.push_async_callback(_close, meters.close)
        # First of all, so that what is read afterwards is all that any older instance will ever have written.
        intents = await IntentLog.open(config.bootstrap_servers)
        stack.push_async_callback(_close, intents.close)
        totals = await TotalsReader.open(config.bootstrap_servers)
        stack.push_async_callback(_close, totals.close)
        sink = StripeSink(config, meters, totals, intents)
        sink.writer.is_stopping = stop.is_set
        await sink.prepare()
        while not stop.is_set():
            await sink.step()
        _say("sink.stripe.stopped", pending=sink.state.pending_count)


async def _close(close: Callable[[], Awaitable[None]]) -> None:
    """A broker that is gone must not hold up the end."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(close(), _CLOSE_S)


def _say(event: StripeSinkEvent, error: BaseException | None = None, **fields: object) -> None:
    """Log one event; `error` with its traceback."""
    _logger.log(_LEVELS.get(event, logging.INFO), LogLine(event, fields), exc_info=error)

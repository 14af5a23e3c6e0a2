"""A process's checks: their names, how each stands and since when, and what a person should do.

One board for the process, as `observe.figures` has one object for its figures. A check is red when the process does not do what
it is for, yellow when it does but something beside it needs a look.
"""

import threading
import time
from collections.abc import Callable
from enum import StrEnum
from typing import Final, NamedTuple

__all__ = ["HEALTH", "Check", "CheckName", "CheckState", "HealthBoard", "worst_of"]


class CheckName(StrEnum):
    """What is looked at."""

    MEASURED = "measured"
    """API: the measurement is recent. Red: measuring hangs, or has not begun."""
    MAIN_LOOP = "main_loop"
    """Any process: its main loop turns. Red: it hangs, and /livez fails too."""
    KAFKA = "kafka"
    """The brokers answer."""
    FOLD_STANDS = "fold_stands"
    """No partition stands before a record. Red names each partition, why, and the command that goes on."""
    FOLD_PROGRESS = "fold_progress"
    """Every record is counted soon after it was logged. Red: none is being counted, or too late."""
    TAKE_OVER = "take_over"
    """Worker: yellow while partitions are being taken over, red when that lasts."""
    FORWARDER = "forwarder"
    """Backfills go to the log. Yellow: the fold commits nothing of a partition, and holds them up."""
    CLICKHOUSE = "clickhouse"
    """ClickHouse answers, and has the sink's tables."""
    CLICKHOUSE_SINK = "clickhouse_sink"
    """What is counted is in ClickHouse soon after. Where the API says it: yellow, since nothing is lost or uncounted."""
    STRIPE = "stripe"
    """Stripe answers, and takes what it is told."""
    STRIPE_SINK = "stripe_sink"
    """What is due has been told to Stripe. Yellow: a meter of Stripe's is missing, or takes no totals."""
    API_KEYS = "api_keys"
    """The node knows every API key. Red: it has read none yet. Yellow: a key that was just revoked may still be taken."""
    EVENT_LOG = "event_log"
    """API: Kafka acknowledges batches. Red: the last one was not."""


class CheckState(StrEnum):
    """In order of gravity."""

    GREEN = "green"
    YELLOW = "yellow"
    RED = "red"

    @property
    def rank(self) -> int:
        """0, 1 and 2: what the metric shows."""
        return list(CheckState).index(self)


class Check(NamedTuple):
    """How one check stands."""

    name: CheckName
    state: CheckState
    since_ms: int
    """When it came to this state, by the process's clock."""
    message: str = ""
    """What is wrong; empty when green."""
    do: str = ""
    """What to do about it: a command where there is one."""


class HealthBoard:
    """The last report of each check. Safe from any thread."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic, now_ms: Callable[[], int] | None = None) -> None:
        self._now_s = now_s
        self._now_ms = now_ms or (lambda: time.time_ns() // 1_000_000)
        self._lock = threading.Lock()
        self._checks: dict[CheckName, Check] = {}
        self._turned_s: float | None = None
        self.on_change: Callable[[Check], None] = lambda _: None
        """Called when a check comes to another state, by the thread that reports it."""
        self.refresh: list[Callable[[], object]] = []
        """Called before the checks are told: whoever's check grows stale by itself reports it anew."""

    def report(self, name: CheckName, state: CheckState = CheckState.GREEN, message: str = "", do: str = "") -> None:
        """Say how a check stands now; `since_ms` stays while the state does."""
        with self._lock:
            known = self._checks.get(name)
            has_changed = known is None or known.state is not state
            since_ms = self._now_ms() if known is None or has_changed else known.since_ms
            check = self._checks[name] = Check(name, state, since_ms, message, do)
        if has_changed and not (known is None and state is CheckState.GREEN):
            self.on_change(check)

    def turned(self) -> None:
        """The main loop has turned. Watched from the first call on."""
        self._turned_s = self._now_s()

    def stalled_s(self) -> float:
        """How long ago the main loop turned; 0 before it first did."""
        turned_s = self._turned_s
        return 0.0 if turned_s is None else max(0.0, self._now_s() - turned_s)

    def checks(self, stall_s_max: float) -> tuple[Check, ...]:
        """All that were reported, and the main loop's."""
        for look in self.refresh:
            look()
        stalled_s = self.stalled_s()
        if stalled_s > stall_s_max:
            message = f"the main loop has not turned for {stalled_s:.0f} s; {stall_s_max:g} s are allowed"
            self.report(CheckName.MAIN_LOOP, CheckState.RED, message, "restart the process; it goes on from the log")
        else:
            self.report(CheckName.MAIN_LOOP)
        return self.last()

    def last(self) -> tuple[Check, ...]:
        """All that were reported, as they were."""
        with self._lock:
            return tuple(self._checks[name] for name in CheckName if name in self._checks)


def worst_of(checks: tuple[Check, ...]) -> CheckState:
    """Of no checks: green."""
    return max((check.state for check in checks), key=lambda state: state.rank, default=CheckState.GREEN)


HEALTH: Final = HealthBoard()
"""This process's."""

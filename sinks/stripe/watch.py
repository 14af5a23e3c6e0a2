"""What the sink shows of itself: its figures and its checks."""

from __future__ import annotations

from collections.abc import Mapping

from aiokafka import TopicPartition

from observe.figures import FIGURES
from observe.health import HEALTH, CheckName, CheckState
from observe.metrics import (
    STRIPE_LAG,
    STRIPE_PENDING,
    STRIPE_POSITION,
    STRIPE_REQUESTS,
    STRIPE_ROUND_S,
    STRIPE_WAITING_S,
)
from sinks.stripe.state import SinkState
from sinks.stripe.writer import RoundDone

__all__ = ["SHOW_INTERVAL_S", "SinkWatch"]

SHOW_INTERVAL_S = 1.0
_DO = "see what the log says of sink.stripe.unknown; nothing is lost, and each total is told with its own identifier"
_MEND_METER = "mend the meter at Stripe, or the catalog; sink.stripe.refused names what is wrong, and all is told then"


class SinkWatch:
    """Notes what the sink does. Times: `now_s` of one monotonic clock, `now_ms` of the sink's own."""

    def __init__(self, age_s_max: float) -> None:
        self._age_s_max = age_s_max
        self._behind_since_s: float | None = None
        self._shown_s = 0.0

    def looked(self, now_s: float, *, has_more: bool) -> None:
        """It was looked what is due. `has_more`: not all of it can be told now."""
        if not has_more:
            self._behind_since_s = None
        elif self._behind_since_s is None:
            self._behind_since_s = now_s

    def round_done(self, done: RoundDone, took_s: float) -> None:
        """A round of requests; Stripe is away when it answered none of them."""
        for outcome in ("accepted", "unknown", "unlinked"):
            FIGURES.add(STRIPE_REQUESTS, getattr(done, outcome), outcome)
        FIGURES.add(STRIPE_REQUESTS, done.refused + done.not_asked, "refused")
        FIGURES.observe(STRIPE_ROUND_S, took_s)
        if done.accepted or done.refused:
            HEALTH.report(CheckName.STRIPE)
        elif done.unknown:
            self.no_answer(f"none of {done.unknown} requests got a definite answer")

    def no_answer(self, why: object) -> None:
        """Stripe did not answer, or asked to be left alone."""
        HEALTH.report(CheckName.STRIPE, CheckState.RED, f"Stripe: {why}", _DO)

    def answered(self) -> None:
        """Stripe did."""
        HEALTH.report(CheckName.STRIPE)

    def is_time(self, now_s: float) -> bool:
        """Whether to `show` again."""
        return now_s - self._shown_s >= SHOW_INTERVAL_S

    def show(
        self,
        state: SinkState,
        positions: Mapping[TopicPartition, int],
        ends: Mapping[TopicPartition, int],
        now_s: float,
        now_ms: int,
    ) -> None:
        """Everything that changes by itself. `ends`: those of the partitions whose end is known."""
        self._shown_s = now_s
        age_s = self._age_s(state, now_s, now_ms)
        FIGURES.set_all(STRIPE_POSITION, {(at.partition,): offset for at, offset in positions.items()})
        lags = {(at.partition,): max(0, ends[at] - positions[at]) for at in positions.keys() & ends.keys()}
        FIGURES.set_all(STRIPE_LAG, lags)
        FIGURES.set(STRIPE_PENDING, state.pending_count)
        FIGURES.set(STRIPE_WAITING_S, age_s)
        if age_s > self._age_s_max:
            message = f"totals have been due or unanswered for {age_s:.0f} s; {self._age_s_max:g} s are allowed"
            HEALTH.report(CheckName.STRIPE_SINK, CheckState.RED, message, _DO)
        elif names := state.refusing_meters():
            message = f"Stripe's meters {', '.join(names)} are missing, or take no totals: nothing of them is told"
            HEALTH.report(CheckName.STRIPE_SINK, CheckState.YELLOW, message, _MEND_METER)
        else:
            HEALTH.report(CheckName.STRIPE_SINK)
        HEALTH.turned()

    def _age_s(self, state: SinkState, now_s: float, now_ms: int) -> float:
        """Since when more is due than is told, or the oldest total without a definite answer was decided."""
        decided_ms = state.oldest_pending_ms()
        pending_s = 0.0 if decided_ms is None else max(0.0, (now_ms - decided_ms) / 1_000)
        behind_s = 0.0 if self._behind_since_s is None else now_s - self._behind_since_s
        return max(pending_s, behind_s)

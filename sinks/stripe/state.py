"""What the sink knows, and what it decides from it. Pure: records and times in, intents and outcomes out.

`decide` looks at one window and says what is due. `SinkState` holds all windows and finds those whose time has come; every
change of it is one of the records on `usage-totals` and `stripe-intents`, so that reading both topics again builds it anew.
Start and restart are therefore one path.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from typing import Final, NamedTuple

from billing.quantities import nano_of, plain
from schemas.intents import INTENTS_VERSION, Intent, Outcome, RowVersion, Status, Target, Window
from schemas.totals import StripeHourTotal
from sinks.stripe.errors import Refused
from sinks.stripe.mapping import identifier_of, timestamp_of, to_refused_outcome, to_unlinked_outcome
from sinks.stripe.port import MeterInfo
from sinks.stripe.windows import Windows, WindowState

__all__ = [
    "METER_CODES",
    "Action",
    "Rules",
    "Send",
    "Settle",
    "SinkState",
    "Wait",
    "WindowState",
    "decide",
    "is_unusable",
]

METER_CODES: Final = frozenset({"no_meter", "archived_meter", "meter_without_hour_window", "meter_does_not_sum"})
"""Refusals that are the meter's fault, not the total's: told again once the meter can take them."""
_ROWS_IN_INTENT_MAX: Final = 100
_RETRY_MS_MIN: Final = 250
_RETRY_MS_MAX: Final = 60_000
_LOOKS_MAX: Final = 5_000  # some 200 ms; a start has every window to look at, and must still hear that it is to stop
_KEPT_HOURS: Final = 36 * 24
"""Stripe takes an hour's usage for 35 days: older windows are let go of."""


class Rules(NamedTuple):
    """What decisions depend on besides the records."""

    target: Target
    send_interval_ms: int
    """A window is told at most this often."""
    meters: Mapping[str, MeterInfo]
    """Stripe's meters, by event name."""

    @property
    def linked_only(self) -> bool:
        """Stripe knows only customers of its own; the double makes those that it is told of."""
        return self.target is not Target.DOUBLE


class Send(NamedTuple):
    """Tell Stripe this; a new intent goes to the log first."""

    intent: Intent
    is_new: bool


class Settle(NamedTuple):
    """Note this outcome; there is nothing to ask Stripe."""

    outcome: Outcome


class Wait(NamedTuple):
    """Something is to be told, not before `until_ms`."""

    until_ms: int


Action = Send | Settle | Wait | None
"""None: Stripe has been told all there is."""


def decide(window: Window, known: WindowState, rules: Rules, now_ms: int) -> Action:
    """What is due for one window.

    A pending intent comes before anything newer, as it was written: Stripe may have it already, or get it late, and only
    its own identifier makes the two tries one.
    """
    if known.pending is not None:
        return Send(known.pending, is_new=False) if known.retry_at_ms <= now_ms else Wait(known.retry_at_ms)
    if not known.rows or known.status is Status.UNLINKED:
        return None
    intent = _next_intent(window, known, rules.target, now_ms)
    if intent.identifier == known.settled or (intent.quantity == "0" and known.status is not Status.ACCEPTED):
        return None  # nothing new, or nothing at all: an hour without a value is 0 at Stripe, too
    earliest_ms = 0 if known.decided_at_ms is None else known.decided_at_ms + rules.send_interval_ms
    if now_ms < earliest_ms:
        return Wait(earliest_ms)
    if rules.linked_only and not window.stripe_customer.startswith("cus_"):
        return Settle(to_unlinked_outcome(intent, now_ms))
    if why := _why_unusable(rules.meters.get(window.stripe_event_name)):
        message = f"no total can be sent to the meter {window.stripe_event_name}"
        return Settle(to_refused_outcome(intent, Refused(why, message), now_ms))
    return Send(intent, is_new=True)


class SinkState:
    """All windows, and a queue of those for which something is or will be due."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.windows = Windows()
        self.event_names: set[str] = set()
        """The meters that are told, or are to be."""
        self._due: list[tuple[int, Window]] = []
        self._first_hour = 0
        """Of the windows that are not let go of."""

    @property
    def pending_count(self) -> int:
        return sum(known.pending is not None for _, known in self.windows.awake())

    def oldest_pending_ms(self) -> int | None:
        """When the oldest intent without a definite answer was decided; None where there is none."""
        pending = (known.pending for _, known in self.windows.awake())
        return min((intent.decided_at_ms for intent in pending if intent is not None), default=None)

    def refusing_meters(self) -> list[str]:
        """Meters to which totals are due that they do not take."""
        return sorted({window.stripe_event_name for window, known in self.windows.awake() if known.code in METER_CODES})

    def saw(self, record: Intent | Outcome) -> None:
        """A record of `stripe-intents`."""
        if isinstance(record, Intent):
            self.saw_intent(record)
        else:
            self.saw_outcome(record)

    def saw_total(self, total: StripeHourTotal) -> None:
        """A value of `usage-totals`. An older version than the known one changes nothing."""
        window = Window(total.stripe_customer, total.stripe_event_name, total.hour)
        if total.hour < self._first_hour and window not in self.windows:
            return  # an hour that the fold closed late; Stripe takes nothing for it any more
        version = RowVersion(total.account, total.incarnation, total.partition, total.version_offset)
        known = self._known(window)
        before = known.rows.get(total.account)
        if before is None or _order(before[0]) < _order(version):
            known.rows[total.account] = (version, total.quantity)
            self._queue(window, known)

    def saw_intent(self, intent: Intent) -> None:
        """An intent is on the log. Those of other targets concern nobody here."""
        if intent.target != self.target:
            return
        known = self._known(intent.window)
        known.pending, known.attempts, known.retry_at_ms = intent, 0, 0
        known.decided_at_ms, known.series = intent.decided_at_ms, intent.series
        known.send_number = intent.send_number + 1
        self._queue(intent.window, known)

    def saw_outcome(self, outcome: Outcome) -> None:
        """An outcome is on the log."""
        if outcome.target != self.target:
            return
        known = self._known(outcome.window)
        assert known.pending is None or known.pending.identifier == outcome.identifier, (
            f"outcome of {outcome.identifier} while {known.pending} is pending: intents of a window are told in order"
        )
        if known.pending is None:  # decided without an intent: it took its turn all the same
            known.decided_at_ms, known.series = outcome.at_ms, outcome.series
        known.pending, known.attempts = None, 0
        known.settled, known.status, known.code = outcome.identifier, outcome.status, outcome.code
        self._queue(outcome.window, known)

    def saw_no_answer(self, intent: Intent, now_ms: int) -> int:
        """A request came to nothing definite; how long to wait before the next, in ms."""
        known = self.windows[intent.window]
        assert known.pending == intent, f"{intent.identifier} is not what is pending"
        wait_ms = min(_RETRY_MS_MIN << min(known.attempts, 16), _RETRY_MS_MAX)
        known.attempts += 1
        known.retry_at_ms = now_ms + wait_ms
        self._queue(intent.window, known)
        return wait_ms

    def saw_no_turn(self, intent: Intent, now_ms: int, wait_ms: int) -> None:
        """It was not asked, since another of its customer and meter had no answer: both wait alike."""
        self.windows[intent.window].retry_at_ms = now_ms + wait_ms
        self._queue(intent.window, self.windows[intent.window])

    def saw_meter_mended(self, event_name: str) -> None:
        """The meter takes totals now: what was refused for its sake is told again, under new identifiers."""
        for window, known in self.windows.awake():
            if window.stripe_event_name == event_name and known.pending is None and known.code in METER_CODES:
                known.series += 1
                known.code = None
                self._queue(window, known)

    def take_due(self, rules: Rules, now_ms: int, limit: int) -> list[Send | Settle]:
        """What is due now, the longest due first, at most `limit`.

        A window stays in the queue until `decide` finds nothing more: what the caller does not get done is due again.
        """
        assert rules.target is self.target, f"rules of {rules.target} for a state of {self.target}"
        due: list[Send | Settle] = []
        taken: list[Window] = []
        for _ in range(_LOOKS_MAX):
            if not self._due or self._due[0][0] > now_ms or len(due) == limit:
                break
            _, window = heapq.heappop(self._due)
            known = self.windows.get(window)
            if known is None:
                continue  # it was let go of
            known.is_queued = False
            match decide(window, known, rules, now_ms):
                case Send() | Settle() as action:
                    due.append(action)
                    taken.append(window)
                case Wait(until_ms):
                    self._push(until_ms, window, known)
                case None:
                    self._rest(window, known)
        for window in taken:
            self._push(now_ms, window, self.windows[window])
        return due

    def next_due_ms(self) -> int | None:
        """When to look again, if nothing new is read until then."""
        return self._due[0][0] if self._due else None

    def rest_all(self) -> None:
        """Keep all windows small, as far as they may: while both topics are read, which concerns all of them."""
        for window, known in list(self.windows.awake()):
            self._rest(window, known)

    def forget_old(self, now_ms: int) -> None:
        """Let go of windows that Stripe takes nothing for any more, unless one is pending."""
        first_hour = self._first_hour = now_ms // 3_600_000 - _KEPT_HOURS
        pending = {window for window, known in self.windows.awake() if known.pending is not None}
        for window in [window for window in self.windows if window.hour < first_hour and window not in pending]:
            self.windows.drop(window)

    def _rest(self, window: Window, known: WindowState) -> None:
        """What is pending, or waits for its meter, must be found without asking for each window."""
        if known.pending is None and known.code not in METER_CODES:
            self.windows.rest(window)

    def _known(self, window: Window) -> WindowState:
        known = self.windows.get(window)
        if known is None:
            known = self.windows.make(window)
            self.event_names.add(window.stripe_event_name)
        return known

    def _queue(self, window: Window, known: WindowState) -> None:
        """Have it looked at; `decide` says whether and when anything is due."""
        if not known.is_queued:
            self._push(0, window, known)

    def _push(self, due_ms: int, window: Window, known: WindowState) -> None:
        known.is_queued = True
        heapq.heappush(self._due, (due_ms, window))


def _next_intent(window: Window, known: WindowState, target: Target, now_ms: int) -> Intent:
    """The intent that tells the window's total as its rows have it now."""
    versions = [version for version, _ in known.rows.values()]
    return Intent(
        version=INTENTS_VERSION,
        target=target,
        stripe_customer=window.stripe_customer,
        stripe_event_name=window.stripe_event_name,
        hour=window.hour,
        identifier=identifier_of(target, window, versions, known.series),
        quantity=plain(sum(nano_of(quantity) for _, quantity in known.rows.values())),
        timestamp_s=timestamp_of(window.hour, known.send_number, now_ms),
        series=known.series,
        send_number=known.send_number,
        decided_at_ms=now_ms,
        rows=tuple(sorted(versions, key=lambda version: version.account)[:_ROWS_IN_INTENT_MAX]),
    )


def is_unusable(meter: MeterInfo | None) -> bool:
    """Whether no total may be sent to the meter; None is one that Stripe does not have."""
    return _why_unusable(meter) is not None


def _why_unusable(meter: MeterInfo | None) -> str | None:
    return "no_meter" if meter is None else meter.why_unusable


def _order(version: RowVersion) -> tuple[int, int]:
    return version.incarnation, version.version_offset

"""The forwarder's work: history goes to the log no faster than the fold takes it, in steps that a clock is given to."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from typing import Final

from observe.figures import FIGURES
from observe.forwarder import ForwarderEvent
from observe.health import HEALTH, CheckName, CheckState
from observe.metrics import FORWARDER_HELD, FORWARDER_RECORDS, FORWARDER_WAITING
from sinks.forward.log import say
from sinks.forward.pace import Lane, Rate, Window
from sinks.forward.port import EndOf, FoldProgress, History, Log, Unavailable

__all__ = ["GAPS", "Forwarder", "Gap", "no_gap"]

Gap = Callable[[str], None]

GAPS: Final = ("read", "appended", "acknowledged", "noted")
"""Points between two effects of a step, in order; the process may die at any of them."""

_IDLE_S: Final = 0.2
_LOOK_S: Final = 0.02
"""Between two looks at the fold while records wait. An epoch commits every 100 ms or more: the window stands idle for a fifth
of that at most. A look costs the broker some 1 ms."""
_NOTE_EVERY_S: Final = 0.5
_SAY_EVERY_S: Final = 10.0
_HELD_S: Final = 30.0
_FLUSH_S: Final = 1.0
"""For what is under way when partitions go; a rebalance waits for it."""


def no_gap(name: str) -> None:
    """Nothing happens at a gap outside tests."""


class Forwarder:
    """One run over open ports; `step` again and again, then `close`.

    A step, in order:
    1. Read what has come of `usage-backfill`, and what the log has acknowledged.
    2. Append as many records as the fold's progress, and the rate, let pass.
    3. Note how far all is acknowledged: that alone is where the next life begins.

    A crash before 3 repeats what was appended since: each such event is a duplicate, and counts once. The other way round, an
    event noted and not yet on the log would be lost. Kill tests: tests/faults/test_backfill.py.
    """

    def __init__(
        self,
        history: History,
        log: Log,
        fold: FoldProgress,
        window: int,
        wait_s_target: float,
        rate_max_per_s: float | None,
        clock_s: Callable[[], float],
        gap: Gap = no_gap,
    ) -> None:
        self._history = history
        self._log = log
        self._fold = fold
        self._window = window
        self._wait_s_target = wait_s_target
        self._clock_s = clock_s
        self._gap = gap
        self._rate = Rate(rate_max_per_s, clock_s())
        self._lanes: dict[int, Lane] = {}
        self._noted: dict[int, int] = {}
        self._looked_s = self._noted_s = self._said_s = clock_s()
        self._said_count = 0
        self._stands: dict[int, tuple[int, float]] = {}
        """By partition: how many had been appended, and since when no more were although some wait."""
        self._held: set[int] = set()
        self._was_busy = False
        self.forwarded_count = 0
        """Records that the log has acknowledged in this life."""

    def open(self) -> None:
        self._history.open(self._assigned, self._revoked)

    def step(self) -> None:
        # 1.
        self._read()
        self._gap("read")
        # 2.
        self._look_at_fold()
        if self._append():
            self._gap("appended")
        self._take_acknowledged()
        # 3.
        if self._clock_s() - self._noted_s >= _NOTE_EVERY_S:
            self._note(self._lanes.values(), wait=False)
        self._report()

    def close(self, timeout_s: float) -> None:
        """Wait up to `timeout_s` for what is under way, and note it."""
        self._log.flush(timeout_s)
        self._take_acknowledged()
        self._note(self._lanes.values(), wait=True)
        self._history.close()

    @property
    def is_busy(self) -> bool:
        """Whether anything that was read is not acknowledged and noted as such."""
        return any(lane.waiting_count or lane.is_sending for lane in self._lanes.values())

    @property
    def read_count(self) -> int:
        """Records in memory, not yet appended."""
        return sum(lane.waiting_count for lane in self._lanes.values())

    def _read(self) -> None:
        for item in self._history.poll(self._wait_s()):
            lane = self._lanes.get(item.partition)
            if lane is None:
                continue  # revoked within this very poll: its next owner reads it
            if isinstance(item, EndOf):
                lane.read_to(item.offset)
            else:
                lane.read(item)
        for lane in self._lanes.values():
            self._pause(lane)

    def _wait_s(self) -> float:
        """Not at all while something can go, a look's time while records wait for the fold or for their rate."""
        lanes = self._lanes.values()
        if not self._rate.is_limited and any(lane.waiting_count and lane.room for lane in lanes):
            return 0.0
        return _LOOK_S if any(lane.waiting_count or lane.is_sending for lane in lanes) else _IDLE_S

    def _pause(self, lane: Lane) -> None:
        if lane.is_full and lane.is_paused is not True:
            self._history.pause(lane.partition)
            lane.is_paused = True
        elif lane.is_low and lane.is_paused is not False:
            self._history.resume(lane.partition)
            lane.is_paused = False

    def _look_at_fold(self) -> None:
        now_s = self._clock_s()
        new = [number for number, lane in self._lanes.items() if not lane.is_begun]
        watched = [number for number, lane in self._lanes.items() if lane.is_watched]
        if not new and (not watched or now_s - self._looked_s < _LOOK_S):
            return
        self._looked_s = now_s
        try:
            # The ends first: what is appended between the two looks then counts as unfolded rather than as forgotten.
            ends = self._fold.ends(new) if new else {}
            folded = self._fold.folded([*new, *watched])
        except Unavailable as exc:
            say(ForwarderEvent.KAFKA_UNAVAILABLE, logging.WARNING, error=str(exc))
            HEALTH.report(CheckName.KAFKA, CheckState.RED, str(exc), "see that the brokers run")
            return
        HEALTH.report(CheckName.KAFKA)
        for number in new:
            self._lanes[number].begin(folded[number], ends[number])
        for number in watched:
            self._lanes[number].folded(folded[number], now_s)

    def _append(self) -> int:
        """Append what may go, a record of each lane in turn, so that a rate is shared among them; how many went."""
        allowed = self._rate.allowed(self._clock_s())
        count = 0
        ready = [lane for lane in self._lanes.values() if lane.waiting_count and lane.room]
        while ready and (allowed is None or count < allowed):
            for lane in ready[: None if allowed is None else allowed - count]:
                self._log.append(lane.take())
                count += 1
            ready = [lane for lane in ready if lane.waiting_count and lane.room]
        self._rate.used(count)
        return count

    def _take_acknowledged(self) -> None:
        taken = self._log.acknowledged()
        now_s = self._clock_s()
        for done in taken:
            self.forwarded_count += 1
            lane = self._lanes.get(done.partition)
            if lane is not None:
                lane.acknowledged(done.source_offset, done.offset, now_s)
        if taken:
            FIGURES.add(FORWARDER_RECORDS, len(taken))
            self._gap("acknowledged")

    def _note(self, lanes: Collection[Lane], *, wait: bool) -> None:
        self._noted_s = self._clock_s()
        for number in self._history.refused():
            self._noted.pop(number, None)
        new = {
            lane.partition: lane.noted
            for lane in lanes
            if lane.noted is not None and lane.noted != self._noted.get(lane.partition)
        }
        if not new:
            return
        try:
            self._history.commit(new, wait=wait)
        except Unavailable as exc:
            say(ForwarderEvent.KAFKA_UNAVAILABLE, logging.WARNING, error=str(exc))
            return
        self._noted |= new
        self._gap("noted")

    def _assigned(self, partitions: Collection[int]) -> None:
        for number in partitions:
            self._lanes[number] = Lane(number, Window(self._window, self._wait_s_target))
            self._noted.pop(number, None)
            self._say_expired(number)
        say(ForwarderEvent.ASSIGNED, partitions=sorted(partitions))

    def _revoked(self, partitions: Collection[int]) -> None:
        """Before another process reads them: what is acknowledged is noted; what is still under way it will repeat."""
        self._log.flush(_FLUSH_S)
        self._take_acknowledged()
        gone = [self._lanes.pop(number) for number in partitions if number in self._lanes]
        self._note(gone, wait=True)
        say(ForwarderEvent.REVOKED, partitions=sorted(partitions))

    def _say_expired(self, partition: int) -> None:
        try:
            committed, start = self._history.place(partition)
        except Unavailable:
            return  # it is told to a person only
        if committed is not None and committed < start:
            fields = {"partition": partition, "from": committed, "to": start}
            say(ForwarderEvent.EXPIRED, logging.ERROR, **fields)

    def _report(self) -> None:
        now_s = self._clock_s()
        HEALTH.turned()
        FIGURES.set(FORWARDER_WAITING, self.read_count)
        if self.forwarded_count > self._said_count and now_s - self._said_s >= _SAY_EVERY_S:
            rate = (self.forwarded_count - self._said_count) / (now_s - self._said_s)
            say(ForwarderEvent.PROGRESS, forwarded=self.forwarded_count, rate_per_s=round(rate))
            self._said_s, self._said_count = now_s, self.forwarded_count
        is_busy = self.is_busy
        if self._was_busy and not is_busy and self._lanes:
            say(ForwarderEvent.CAUGHT_UP, forwarded=self.forwarded_count)
        self._was_busy = is_busy
        self._report_held(now_s)

    def _report_held(self, now_s: float) -> None:
        held = []
        for number, lane in self._lanes.items():
            count, since_s = self._stands.get(number, (-1, now_s))
            if not lane.waiting_count or lane.room or count != lane.taken_count:
                self._stands[number] = lane.taken_count, now_s
            elif now_s - since_s >= _HELD_S:
                self._stands[number] = lane.taken_count, now_s
                held.append(number)
        self._held &= {number for number, lane in self._lanes.items() if lane.waiting_count and not lane.room}
        self._held |= set(held)
        FIGURES.set(FORWARDER_HELD, len(self._held))
        if self._held:
            message = f"the fold commits nothing of the partitions {sorted(self._held)}, whose backfills wait"
            HEALTH.report(
                CheckName.FORWARDER, CheckState.YELLOW, message, "see /v1/health of an API node, and the workers"
            )
        else:
            HEALTH.report(CheckName.FORWARDER)
        if held:
            say(ForwarderEvent.HELD, logging.WARNING, partitions=held)

"""The forwarder over ports in memory: whatever happens, a bounded number of its records waits for the fold, and none is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest.mock import patch

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from sinks.forward.forwarder import Forwarder
from sinks.forward.memory import MemoryFold, MemoryHistory, MemoryLog, MemoryTopics
from sinks.forward.pace import Lane, Window
from sinks.forward.port import Record

PARTITIONS = 2
WINDOW = 5
LANES = st.integers(0, PARTITIONS - 1)


class Life:
    """One process: its ports, and its clock."""

    def __init__(
        self,
        topics: MemoryTopics,
        window: int = WINDOW,
        rate_max_per_s: float | None = None,
        records_per_poll: int = 7,
    ) -> None:
        self.now_s = 1_000.0
        self.log = MemoryLog(topics)
        self.history = MemoryHistory(topics, records_per_poll)
        fold = MemoryFold(topics)
        self.forwarder = Forwarder(self.history, self.log, fold, window, 1.0, rate_max_per_s, lambda: self.now_s)
        self.forwarder.open()

    def step(self, took_s: float = 0.3) -> None:
        self.now_s += took_s
        self.forwarder.step()


class ForwarderMachine(RuleBasedStateMachine):
    """Producers, the fold, crashes and rebalances in any order, beside what must be true at each moment."""

    def __init__(self) -> None:
        super().__init__()
        self.topics = MemoryTopics(PARTITIONS)
        self.life = Life(self.topics)
        self.sent = 0

    @rule(lane=LANES, count=st.integers(1, 20))
    def history_is_sent(self, lane: int, count: int) -> None:
        for _ in range(count):
            self.sent += 1
            self.topics.send_history(lane, b"%d" % self.sent)

    @rule(lane=LANES, count=st.integers(1, 8))
    def live_events_come(self, lane: int, count: int) -> None:
        for _ in range(count):
            self.topics.send_live(lane)

    @rule(lane=LANES, count=st.integers(1, 20))
    def the_fold_goes_on(self, lane: int, count: int) -> None:
        self.topics.fold(lane, count)

    @rule(count=st.integers(1, 20))
    def appends_arrive(self, count: int) -> None:
        if not self.topics.is_away:
            self.life.log.deliver(count)

    @rule()
    def the_forwarder_steps(self) -> None:
        self.life.step()

    @rule()
    def it_is_killed(self) -> None:
        """What was appended and has not arrived is lost with it."""
        self.life = Life(self.topics)

    @rule()
    def it_is_rebalanced(self) -> None:
        if not self.topics.is_away:
            self.life.history.reassign(self.life.forwarder._assigned)

    @rule()
    def it_is_stopped_and_started(self) -> None:
        self.life.forwarder.close(1.0)
        self.life = Life(self.topics)

    @rule(is_away=st.booleans())
    def kafka_goes_or_comes(self, is_away: bool) -> None:
        self.topics.is_away = is_away

    @invariant()
    def at_most_a_window_waits_for_the_fold(self) -> None:
        waiting = {number: self.topics.unfolded_count(number) for number in range(PARTITIONS)}
        assert all(count <= WINDOW for count in waiting.values()), waiting

    @invariant()
    def nothing_is_noted_that_the_log_lacks(self) -> None:
        for number, noted in self.topics.noted.items():
            there = {record.offset for record in self.topics.log[number] if record is not None}
            assert there >= set(range(noted)), f"lane {number} is noted up to {noted}"

    def teardown(self) -> None:
        """Left alone, it forwards everything, each lane in its order."""
        self.topics.is_away = False
        for _ in range(self.sent + 20):
            if all(self.topics.noted.get(n, 0) == len(history) for n, history in self.topics.history.items()):
                break
            self.life.step()
            self.life.log.deliver()
            self.at_most_a_window_waits_for_the_fold()
            for number in range(PARTITIONS):
                self.topics.fold(number, WINDOW)
        for number, history in self.topics.history.items():
            first = dict.fromkeys(record for record in self.topics.log[number] if record is not None)
            assert list(first) == history
            assert self.topics.noted.get(number, 0) == len(history)


TestForwarder = ForwarderMachine.TestCase
TestForwarder.settings = settings(max_examples=300, stateful_step_count=40)


@contextmanager
def room_without_a_window() -> Iterator[None]:
    with patch.object(Lane, "room", property(lambda self: 1_000 if self.is_begun else 0)):
        yield


@contextmanager
def acknowledged_counts_as_folded() -> Iterator[None]:
    sound = Lane.acknowledged

    def acknowledged(self: Lane, source_offset: int, offset: int, now_s: float) -> None:
        sound(self, source_offset, offset, now_s)
        self.folded(offset + 1, now_s)

    with patch.object(Lane, "acknowledged", acknowledged):
        yield


@contextmanager
def a_start_that_forgets_its_predecessor() -> Iterator[None]:
    sound = Lane.begin
    with patch.object(Lane, "begin", lambda self, folded, end: sound(self, end, end)):
        yield


@contextmanager
def noted_when_appended() -> Iterator[None]:
    sound = Lane.take

    def take(self: Lane) -> Record:
        record = sound(self)
        self.noted = record.offset + 1
        return record

    with patch.object(Lane, "take", take):
        yield


@pytest.mark.parametrize(
    "fault",
    [room_without_a_window, acknowledged_counts_as_folded, a_start_that_forgets_its_predecessor, noted_when_appended],
    ids=lambda fault: fault.__name__,
)
def test_the_model_notices_that(fault: Callable[[], Iterator[None]]) -> None:
    looking = settings(
        max_examples=1_000,
        stateful_step_count=30,
        derandomize=True,
        database=None,
        print_blob=False,
        report_multiple_bugs=False,
        phases=[Phase.generate],
    )
    with fault(), pytest.raises(AssertionError):  # type: ignore[attr-defined]
        run_state_machine_as_test(ForwarderMachine, settings=looking)


def wait_at(records_per_s: int, window: int) -> tuple[float, int]:
    """Seconds of work before a live event at the end, and how many records went in a minute, with a fold of that speed."""
    topics = MemoryTopics(1)
    for number in range(30_000):
        topics.send_history(0, b"%d" % number)
    life = Life(topics, window=window, records_per_poll=1_000)
    for _ in range(1_200):
        life.step(0.05)
        life.log.deliver()
        topics.fold(0, records_per_s // 20)
    return topics.unfolded_count(0) / records_per_s, len(topics.log[0])


@pytest.mark.parametrize("records_per_s", [100, 400, 2_000])
def test_a_slow_fold_gets_a_small_window(records_per_s: int) -> None:
    """A live event waits for about the target of a second; and the fold is never left idle for long."""
    wait_s, forwarded = wait_at(records_per_s, window=1_000)
    assert wait_s <= 2
    assert forwarded >= 60 * records_per_s * 0.8 or forwarded == 30_000


def test_a_window_of_a_fixed_size_makes_live_events_wait_for_a_slow_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the test above is there to find."""
    monkeypatch.setattr(Window, "saw", lambda self, *_: setattr(self, "size", self.size_max))
    assert wait_at(200, window=1_000)[0] > 4


def test_a_fold_that_stands_stops_its_lane_alone() -> None:
    topics = MemoryTopics(PARTITIONS)
    for number in range(100):
        topics.send_history(0, b"a%d" % number)
        topics.send_history(1, b"b%d" % number)
    life = Life(topics)
    for _ in range(60):
        life.step()
        life.log.deliver()
        topics.fold(1, 3)
    assert (len(topics.log[0]), len(topics.log[1])) == (WINDOW, 100)


def test_a_rate_is_kept_and_shared_among_the_lanes() -> None:
    topics = MemoryTopics(PARTITIONS)
    for number in range(500):
        topics.send_history(0, b"a%d" % number)
        topics.send_history(1, b"b%d" % number)
    life = Life(topics, window=1_000, rate_max_per_s=20.0)
    for _ in range(100):
        life.step(0.1)
        life.log.deliver()
    lengths = [len(topics.log[number]) for number in range(PARTITIONS)]
    assert sum(lengths) == 10 * 20
    assert abs(lengths[0] - lengths[1]) <= 20


@pytest.mark.parametrize("records_per_poll", [7, 25], ids=["less than is kept ready at a time", "more"])
def test_what_is_read_is_bounded(records_per_poll: int) -> None:
    """History of a month does not come into memory while the fold stands."""
    topics = MemoryTopics(1)
    for number in range(1_000):
        topics.send_history(0, b"%d" % number)
    life = Life(topics, records_per_poll=records_per_poll)
    for _ in range(100):
        life.step()
    assert life.forwarder.read_count <= 2 * WINDOW + records_per_poll


def test_a_place_that_kafka_did_not_note_is_noted_once_more() -> None:
    """Else the last records would count as waiting for ever, with nothing behind them."""
    topics = MemoryTopics(1)
    topics.send_history(0, b"only")
    life = Life(topics)
    for _ in range(3):
        life.step(0.1)
    life.log.deliver()
    topics.is_away = True
    for _ in range(5):
        life.step()
    topics.is_away = False
    for _ in range(3):
        life.step()
    assert topics.noted == {0: 1}

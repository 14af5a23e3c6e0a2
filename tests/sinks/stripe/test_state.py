"""What the sink decides, and a model of a log, a Stripe with faults and a process that dies anywhere."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from billing.quantities import nano_of
from schemas.intents import Intent, Outcome, RowVersion, Status, Target, Window
from schemas.totals import StripeHourTotal
from sinks.stripe.errors import Refused
from sinks.stripe.mapping import identifier_of, timestamp_of, to_accepted_outcome, to_refused_outcome
from sinks.stripe.port import Accepted, MeterInfo
from sinks.stripe.state import Rules, Send, Settle, SinkState

HOUR = 500_000
NOW_MS = HOUR * 3_600_000 + 1_000_000
WINDOW = Window("cus_1", "tokens", HOUR)


def meter(event_name: str = "tokens", window: str | None = "hour", formula: str = "sum", active: bool = True) -> Any:
    return MeterInfo(f"mtr_{event_name}", event_name, window, formula, "stripe_customer_id", "value", active)


RULES = Rules(Target.LIVE, 60_000, {"tokens": meter()})


def total(quantity: str, version: int, account: str = "org/ada", window: Window = WINDOW) -> StripeHourTotal:
    return StripeHourTotal(1, 1, 0, version, account, *window[:2], window.hour, quantity)


def due(state: SinkState, now_ms: int = NOW_MS, rules: Rules = RULES) -> list[Send | Settle]:
    return state.take_due(rules, now_ms, 100)


def sent(state: SinkState, now_ms: int = NOW_MS, rules: Rules = RULES) -> Intent:
    """The one thing that is due, sent and noted as such."""
    (action,) = due(state, now_ms, rules)
    assert isinstance(action, Send)
    assert action.is_new
    state.saw_intent(action.intent)
    return action.intent


def accept(state: SinkState, intent: Intent, now_ms: int = NOW_MS) -> None:
    state.saw_outcome(to_accepted_outcome(intent, Accepted(True, "req_1", False), now_ms))


def refuse(state: SinkState, intent: Intent, code: str) -> None:
    state.saw_outcome(to_refused_outcome(intent, Refused(code, "no"), NOW_MS))


def test_a_total_is_sent_once_and_again_when_it_changes_but_not_before_the_interval() -> None:
    state = SinkState(Target.LIVE)
    state.saw_total(total("5", 10))
    first = sent(state)
    assert (first.quantity, first.window, first.series) == ("5", WINDOW, 0)
    accept(state, first)
    assert due(state, NOW_MS + 10**9) == []
    state.saw_total(total("7", 11))
    assert due(state, NOW_MS + 59_999) == []
    assert state.next_due_ms() == NOW_MS + 60_000
    second = sent(state, NOW_MS + 60_000)
    assert (second.quantity, second.identifier != first.identifier) == ("7", True)


def test_an_older_or_repeated_total_changes_nothing() -> None:
    state = SinkState(Target.LIVE)
    for quantity, version in (("7", 11), ("5", 10), ("7", 11)):
        state.saw_total(total(quantity, version))
    accept(state, sent(state))
    state.saw_total(total("5", 10))
    assert due(state, NOW_MS + 10**9) == []


def test_a_pending_intent_is_told_again_as_it_was_before_anything_newer() -> None:
    state = SinkState(Target.LIVE)
    state.saw_total(total("5", 10))
    intent = sent(state)
    state.saw_total(total("7", 11))
    wait_ms = state.saw_no_answer(intent, NOW_MS)
    assert due(state, NOW_MS + wait_ms - 1) == []
    later_ms = NOW_MS + 10**9
    assert due(state, later_ms) == [Send(intent, is_new=False)]
    accept(state, intent)
    assert sent(state, later_ms).quantity == "7"


def test_waits_between_tries_grow_to_a_minute() -> None:
    state = SinkState(Target.LIVE)
    state.saw_total(total("5", 10))
    intent = sent(state)
    waits = [state.saw_no_answer(intent, NOW_MS) for _ in range(12)]
    assert waits[:4] == [250, 500, 1_000, 2_000]
    assert waits[-1] == 60_000


def test_a_new_process_tells_a_pending_intent_first() -> None:
    state = SinkState(Target.LIVE)
    state.saw_total(total("5", 10))
    intent = sent(state)
    again = SinkState(Target.LIVE)
    again.saw(intent)
    again.saw_total(total("9", 15))
    assert due(again) == [Send(intent, is_new=False)]


def test_accounts_that_are_one_customer_are_added_up() -> None:
    state = SinkState(Target.LIVE)
    state.saw_total(total("5", 10))
    state.saw_total(total("0.5", 3, account="org/bob"))
    intent = sent(state)
    assert intent.quantity == "5.5"
    assert [row.account for row in intent.rows] == ["org/ada", "org/bob"]


def test_a_refused_total_is_not_sent_again_until_it_changes() -> None:
    state = SinkState(Target.LIVE)
    state.saw_total(total("1234567890123456", 10))
    refuse(state, sent(state), "payload_invalid_value")
    assert due(state, NOW_MS + 10**9) == []
    state.saw_total(total("1234567890123457", 11))
    assert sent(state, NOW_MS + 10**9).quantity == "1234567890123457"


@pytest.mark.parametrize(
    ("info", "code"),
    [
        pytest.param(None, "no_meter", id="a meter that Stripe does not have"),
        pytest.param(meter(active=False), "archived_meter", id="an archived meter"),
        pytest.param(meter(window=None), "meter_without_hour_window", id="a meter that would add every total up"),
        pytest.param(meter(window="day"), "meter_without_hour_window", id="a meter with days for windows"),
        pytest.param(meter(formula="last"), "meter_does_not_sum", id="a meter that bills the last hour only"),
    ],
)
def test_no_total_goes_to_a_meter_that_would_bill_it_wrongly(info: MeterInfo | None, code: str) -> None:
    state = SinkState(Target.LIVE)
    state.saw_total(total("5", 10))
    rules = RULES._replace(meters={} if info is None else {"tokens": info})
    (action,) = due(state, rules=rules)
    assert isinstance(action, Settle)
    assert (action.outcome.status, action.outcome.code) == (Status.REFUSED, code)
    state.saw_outcome(action.outcome)
    assert due(state, NOW_MS + 10**9) == []
    state.saw_meter_mended("tokens")
    mended = sent(state, NOW_MS + 10**9)
    assert (mended.quantity, mended.series) == ("5", 1)
    assert mended.identifier != action.outcome.identifier


def test_a_customer_that_is_none_of_stripes_is_noted_once_and_never_sent() -> None:
    window = Window("org/ada", "tokens", HOUR)
    state = SinkState(Target.LIVE)
    state.saw_total(total("5", 10, window=window))
    (action,) = due(state)
    assert isinstance(action, Settle)
    assert (action.outcome.status, action.outcome.livemode) == (Status.UNLINKED, False)
    state.saw_outcome(action.outcome)
    state.saw_total(total("6", 11, window=window))
    assert due(state, NOW_MS + 10**9) == []
    dry = SinkState(Target.DOUBLE)
    dry.saw_total(total("5", 10, window=window))
    assert sent(dry, rules=RULES._replace(target=Target.DOUBLE)).quantity == "5"


def test_an_hour_of_nothing_is_not_told() -> None:
    state = SinkState(Target.LIVE)
    state.saw_total(total("0", 10))
    assert due(state) == []


def test_what_the_double_was_told_is_not_taken_for_stripes() -> None:
    dry = SinkState(Target.DOUBLE)
    dry.saw_total(total("5", 10))
    intent = sent(dry, rules=RULES._replace(target=Target.DOUBLE))
    live = SinkState(Target.LIVE)
    live.saw(intent)
    live.saw(to_accepted_outcome(intent, Accepted(False, None, False), NOW_MS))
    live.saw_total(total("5", 10))
    assert sent(live).identifier != intent.identifier


def test_hours_that_stripe_takes_nothing_for_are_let_go_of_unless_pending() -> None:
    state = SinkState(Target.LIVE)
    old = Window("cus_1", "tokens", HOUR - 36 * 24 - 1)
    state.saw_total(total("5", 10, window=old))
    intent = sent(state)
    state.forget_old(NOW_MS)
    assert old in state.windows
    accept(state, intent)
    state.saw_total(total("5", 10))
    state.forget_old(NOW_MS)
    assert set(state.windows) == {WINDOW}
    assert sent(state).window == WINDOW


def test_the_last_value_of_an_hour_that_was_let_go_of_is_not_told_again() -> None:
    """The fold closes an hour late where it was away for a day, or the account was quarantined."""
    state = SinkState(Target.LIVE)
    old = Window("cus_1", "tokens", HOUR - 36 * 24 - 1)
    state.saw_total(total("5", 10, window=old))
    accept(state, sent(state))
    state.forget_old(NOW_MS)
    state.saw_total(total("5", 10, window=old))
    assert state.take_due(RULES, NOW_MS + 3_600_000, 10) == []


def test_a_round_takes_no_more_than_its_limit_and_forgets_nobody() -> None:
    state = SinkState(Target.LIVE)
    for n in range(25):
        state.saw_total(total("5", 10, window=Window(f"cus_{n}", "tokens", HOUR)))
    seen: list[Window] = []
    for _ in range(3):
        for action in state.take_due(RULES, NOW_MS, 10):
            assert isinstance(action, Send)
            seen.append(action.intent.window)
            state.saw_intent(action.intent)
            accept(state, action.intent)
    assert len(seen) == len(set(seen)) == 25


def test_a_start_looks_at_a_few_thousand_windows_at_a_time() -> None:
    state = SinkState(Target.LIVE)
    for n in range(6_000):
        state.saw_total(total("0", 10, window=Window(f"cus_{n}", "tokens", HOUR)))
    assert due(state) == []
    assert state.next_due_ms() == 0
    assert due(state) == []
    assert state.next_due_ms() is None


def test_windows_at_rest_are_the_same_windows() -> None:
    state = SinkState(Target.LIVE)
    state.saw_total(total("5", 10))
    state.saw_total(total(f"{10**30}.5", 3, account="org/bob"))
    accept(state, sent(state))
    state.saw_total(total("7", 11))
    before = msgspec.structs.asdict(state.windows[WINDOW])
    state.rest_all()
    assert [*state.windows.awake()] == []
    assert (len(state.windows), [*state.windows], WINDOW in state.windows) == (1, [WINDOW], True)
    assert msgspec.structs.asdict(state.windows[WINDOW]) == before
    assert sent(state, NOW_MS + 60_000).quantity == f"{10**30 + 7}.5"


def test_what_is_pending_or_waits_for_its_meter_does_not_rest() -> None:
    state = SinkState(Target.LIVE)
    state.saw_total(total("5", 10))
    intent = sent(state)
    state.rest_all()
    assert state.pending_count == 1
    refuse(state, intent, "no_meter")
    state.rest_all()
    state.saw_meter_mended("tokens")
    assert sent(state, NOW_MS + 10**9).series == 1


def test_what_a_round_leaves_undone_is_due_again() -> None:
    state = SinkState(Target.LIVE)
    state.saw_total(total("5", 10))
    intent = sent(state)
    assert due(state) == [Send(intent, is_new=False)]
    assert due(state) == [Send(intent, is_new=False)]


@pytest.mark.parametrize(
    ("send_number", "now_s", "expected_s"),
    [
        pytest.param(0, 1_000, 0, id="the first at the hour's start"),
        pytest.param(7, 1_000, 7, id="each a second after the one before"),
        pytest.param(5_000, 9_000, 3_599, id="never past the hour"),
        pytest.param(700, 600, 600, id="never ahead of now"),
        pytest.param(0, -200, 0, id="but never before the hour, whose event came from a clock that is ahead"),
    ],
)
def test_an_events_time_lies_within_its_hour(send_number: int, now_s: int, expected_s: int) -> None:
    start_s = HOUR * 3_600
    assert timestamp_of(HOUR, send_number, (start_s + now_s) * 1_000) == start_s + expected_s


def test_an_identifier_stands_for_rows_at_their_versions() -> None:
    row, other = RowVersion("org/a", 1, 0, 5), RowVersion("org/b", 1, 3, 6)
    base = identifier_of(Target.LIVE, WINDOW, [row, other], 0)
    assert base == identifier_of(Target.LIVE, WINDOW, [other, row], 0)
    assert len(base) <= 100
    different = [
        identifier_of(Target.TEST, WINDOW, [row, other], 0),
        identifier_of(Target.LIVE, WINDOW._replace(hour=HOUR + 1), [row, other], 0),
        identifier_of(Target.LIVE, WINDOW, [row], 0),
        identifier_of(Target.LIVE, WINDOW, [row, RowVersion("org/b", 1, 3, 7)], 0),
        identifier_of(Target.LIVE, WINDOW, [row, RowVersion("org/b", 2, 3, 6)], 0),
        identifier_of(Target.LIVE, WINDOW, [row, other], 1),
    ]
    assert len({base, *different}) == 7


ACCOUNTS = (("org/a", "cus_a"), ("org/b", "cus_both"), ("org/c", "cus_both"))
ANSWERS = ("ok", "lost_before", "lost_after", "busy", "late", "refused", "not_asked")


class SinkModel(RuleBasedStateMachine):
    """The log and Stripe as plain lists and dictionaries beside a real state, which any step may lose.

    Whatever happens, Stripe never goes from a newer total of a window back to an older one, takes nothing that was not on
    the log before, and ends with the exact sums.
    """

    make_state = SinkState

    def __init__(self) -> None:
        super().__init__()
        self.now_ms = NOW_MS
        self.rows: dict[tuple[str, Window], StripeHourTotal] = {}
        self.unread: list[StripeHourTotal] = []
        self.log: list[Intent | Outcome] = []
        self.in_air: list[Intent] = []
        self.taken: list[Intent] = []
        self.refuses = False

    @initialize()
    def begin(self) -> None:
        self.state = self.make_state(Target.LIVE)

    @rule(who=st.sampled_from(ACCOUNTS), hour=st.sampled_from([HOUR, HOUR - 1]), more=st.integers(1, 9))
    def grow(self, who: tuple[str, str], hour: int, more: int) -> None:
        window = Window(who[1], "tokens", hour)
        before = self.rows.get((who[0], window))
        grown = total(
            str((int(before.quantity) if before else 0) + more),
            (before.version_offset if before else 0) + 1,
            who[0],
            window,
        )
        self.rows[who[0], window] = grown
        self.unread.append(grown)

    @precondition(lambda self: self.unread)
    @rule(data=st.data())
    def read_some(self, data: st.DataObject) -> None:
        count = data.draw(st.integers(1, len(self.unread)))
        for read in self.unread[:count]:
            self.state.saw_total(read)
        del self.unread[:count]

    @rule(ms=st.integers(1, 200_000))
    def pass_time(self, ms: int) -> None:
        self.now_ms += ms

    @rule(data=st.data())
    def round(self, data: st.DataObject) -> None:
        """The writer's order, with an answer of its own for each request and a death in any gap."""
        due = self.state.take_due(RULES, self.now_ms, data.draw(st.integers(1, 4)))
        dies_after = data.draw(st.sampled_from([None, None, None, "decision", "intents", "requests"]))
        if dies_after == "decision":
            return self.restart()
        sends = [action for action in due if isinstance(action, Send)]
        for action in sends:
            if action.is_new:
                self.log.append(action.intent)
                self.state.saw_intent(action.intent)
        if dies_after == "intents":
            return self.restart()
        outcomes = [
            outcome for action in sends if (outcome := self.ask(action.intent, data.draw(st.sampled_from(ANSWERS))))
        ]
        if dies_after == "requests":
            return self.restart()
        for outcome in outcomes:
            self.log.append(outcome)
            self.state.saw_outcome(outcome)
        return None

    @rule()
    def rest(self) -> None:
        self.state.rest_all()

    @rule()
    def restart(self) -> None:
        """A new process: everything from the log, and every row at its newest."""
        self.state = self.make_state(Target.LIVE)
        for record in self.log:
            self.state.saw(record)
        self.state.rest_all()
        for row in self.rows.values():
            self.state.saw_total(row)
        self.unread.clear()

    @precondition(lambda self: self.in_air)
    @rule(data=st.data())
    def arrive_late(self, data: st.DataObject) -> None:
        self.take(self.in_air.pop(data.draw(st.integers(0, len(self.in_air) - 1))))

    def ask(self, intent: Intent, answer: str) -> Outcome | None:
        if answer == "not_asked":
            return None
        if answer == "refused" and intent not in self.taken and intent not in self.in_air:
            return to_refused_outcome(intent, Refused("payload_invalid_value", "no"), self.now_ms)
        if answer == "late":
            self.in_air.append(intent)
        if answer in ("ok", "lost_after"):
            was_duplicate = not self.take(intent)
            if answer == "ok":
                return to_accepted_outcome(intent, Accepted(True, None, was_duplicate), self.now_ms)
        self.state.saw_no_answer(intent, self.now_ms)
        return None

    def take(self, intent: Intent) -> bool:
        """Stripe's part: an identifier is taken once."""
        if intent in self.taken:
            return False
        assert intent in self.log, "taken without an intent on the log"
        earlier = [self.log.index(other) for other in self.taken if other.window == intent.window]
        assert all(place < self.log.index(intent) for place in earlier), f"{intent} was taken after a newer one"
        self.taken.append(intent)
        return True

    @invariant()
    def a_total_at_stripe_never_exceeds_the_rows(self) -> None:
        sums = self.sums()
        assert all(nano_of(intent.quantity) <= nano_of(sums[intent.window]) for intent in self.taken)

    def sums(self) -> dict[Window, str]:
        sums: dict[Window, int] = {}
        for (_, window), row in self.rows.items():
            sums[window] = sums.get(window, 0) + int(row.quantity)
        return {window: str(quantity) for window, quantity in sums.items()}

    def teardown(self) -> None:
        """Left alone with a Stripe that answers, every window ends with its sum, and what is in the air changes nothing."""
        for (account, window), row in list(self.rows.items()):
            # One more unit each, so that a last refusal is over: a refused total waits for a change.
            grown = total(str(int(row.quantity) + 1), row.version_offset + 1, account, window)
            self.rows[account, window] = grown
            self.unread.append(grown)
        for read in self.unread:
            self.state.saw_total(read)
        for _ in range(20):
            self.now_ms += 100_000
            for action in self.state.take_due(RULES, self.now_ms, 100):
                assert isinstance(action, Send)
                if action.is_new:
                    self.log.append(action.intent)
                    self.state.saw_intent(action.intent)
                outcome = self.ask(action.intent, "ok")
                assert outcome is not None
                self.log.append(outcome)
                self.state.saw_outcome(outcome)
        for late in self.in_air:
            self.take(late)
        last = {intent.window: intent.quantity for intent in self.taken}
        assert last == self.sums()
        assert self.state.next_due_ms() is None


TestSinkModel = SinkModel.TestCase
TestSinkModel.settings = settings(
    max_examples=300, stateful_step_count=40, deadline=None, derandomize=True, database=None
)


class ForgetsUnanswered(SinkState):
    """Planted: what got no answer counts as not taken."""

    def saw_no_answer(self, intent: Intent, now_ms: int) -> int:
        wait_ms = super().saw_no_answer(intent, now_ms)
        self.windows[intent.window].pending = None
        self.windows[intent.window].series += 1
        return wait_ms


class StartsFromOutcomes(SinkState):
    """Planted: a new process knows the outcomes, and not what was under way."""

    def saw(self, record: Intent | Outcome) -> None:
        if isinstance(record, Outcome):
            super().saw(record)


class IgnoresVersions(SinkState):
    """Planted: rows of another version pass for the known ones."""

    def saw_total(self, read: StripeHourTotal) -> None:
        super().saw_total(StripeHourTotal(*(*msgspec.structs.astuple(read)[:3], 1, *msgspec.structs.astuple(read)[4:])))


_UNSHRUNK = settings(TestSinkModel.settings, phases=[Phase.generate], report_multiple_bugs=False, print_blob=False)


@pytest.mark.parametrize("planted", [ForgetsUnanswered, StartsFromOutcomes, IgnoresVersions])
def test_planted_mistakes_are_found_by_the_model(planted: type[SinkState]) -> None:
    model = type("PlantedModel", (SinkModel,), {"make_state": planted})
    with pytest.raises(AssertionError):
        run_state_machine_as_test(model, settings=_UNSHRUNK)

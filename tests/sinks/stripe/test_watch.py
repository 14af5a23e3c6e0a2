"""What the sink says of itself: what waits for Stripe, and for how long."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from aiokafka import TopicPartition

from observe import health
from observe.figures import FIGURES
from observe.health import CheckName, CheckState, HealthBoard
from observe.metrics import STRIPE_LAG, STRIPE_PENDING, STRIPE_REQUESTS, STRIPE_WAITING_S
from schemas.intents import Target
from schemas.totals import StripeHourTotal
from sinks.stripe import watch
from sinks.stripe.state import Rules, Send, SinkState
from sinks.stripe.watch import SinkWatch
from sinks.stripe.writer import RoundDone
from tests.sinks.stripe.test_writer import HOUR, INFO, NOW_MS, World

RULES = Rules(Target.DOUBLE, 0, {"tokens": INFO})
TOTALS_0 = TopicPartition("usage-totals", 0)


@pytest.fixture(autouse=True)
def board(monkeypatch: pytest.MonkeyPatch) -> Iterator[HealthBoard]:
    made = HealthBoard()
    monkeypatch.setattr(watch, "HEALTH", made)
    yield made
    assert health.HEALTH is not made


def state_of(board: HealthBoard, name: CheckName) -> CheckState:
    return next(check.state for check in board.last() if check.name is name)


def with_a_total() -> SinkState:
    state = SinkState(Target.DOUBLE)
    state.saw_total(StripeHourTotal(1, 1, 0, 17, "acme/c", "acme/c", "tokens", HOUR, "7"))
    return state


def show(shown: SinkWatch, state: SinkState, after_s: float) -> None:
    shown.show(state, {TOTALS_0: 5}, {TOTALS_0: 8}, after_s, NOW_MS + round(after_s * 1_000))


def test_a_sink_that_is_behind_ages_until_all_that_is_due_is_told(board: HealthBoard) -> None:
    shown, state = SinkWatch(age_s_max=60.0), with_a_total()
    for second in range(61):
        shown.looked(float(second), has_more=True)
        show(shown, state, float(second))
    assert state_of(board, CheckName.STRIPE_SINK) is CheckState.GREEN
    assert FIGURES.numbers(STRIPE_WAITING_S) == {(): 60.0}
    assert FIGURES.numbers(STRIPE_LAG) == {("0",): 3}
    show(shown, state, 61.0)
    assert state_of(board, CheckName.STRIPE_SINK) is CheckState.RED
    shown.looked(62.0, has_more=False)
    show(shown, state, 62.0)
    assert state_of(board, CheckName.STRIPE_SINK) is CheckState.GREEN


def test_an_intent_without_an_answer_ages_from_its_decision(board: HealthBoard) -> None:
    shown, state = SinkWatch(age_s_max=60.0), with_a_total()
    [action] = state.take_due(RULES, NOW_MS, 10)
    assert isinstance(action, Send)
    state.saw_intent(action.intent)
    state.saw_no_answer(action.intent, NOW_MS)
    show(shown, state, 61.0)
    assert FIGURES.numbers(STRIPE_PENDING) == {(): 1}
    assert FIGURES.numbers(STRIPE_WAITING_S) == {(): 61.0}
    assert state_of(board, CheckName.STRIPE_SINK) is CheckState.RED


def test_a_round_without_any_answer_is_red_until_the_next_one_has_some(board: HealthBoard) -> None:
    shown = SinkWatch(60.0)
    shown.round_done(RoundDone(3, 0, 0, 0, 3), 0.2)
    assert state_of(board, CheckName.STRIPE) is CheckState.RED
    shown.round_done(RoundDone(0, 3, 2, 0, 1), 0.2)
    assert state_of(board, CheckName.STRIPE) is CheckState.GREEN


def test_a_meter_that_takes_no_totals_is_counted_and_shown(board: HealthBoard) -> None:
    """Stripe is not asked for it: without this, nothing would be billed and all would be green."""

    async def main() -> None:
        world = World()
        world.see("a", "1")
        done = await world.writer.round(world.state.take_due(RULES._replace(meters={}), NOW_MS, 10), {}, {})
        before = FIGURES.numbers(STRIPE_REQUESTS).get(("refused",), 0)
        shown = SinkWatch(age_s_max=60.0)
        shown.round_done(done, 0.1)
        assert FIGURES.numbers(STRIPE_REQUESTS)["refused",] == before + 1
        shown.show(world.state, {}, {}, 1.0, NOW_MS)
        [check] = [check for check in board.last() if check.name is CheckName.STRIPE_SINK]
        assert check.state is CheckState.YELLOW
        assert "tokens" in check.message
        world.state.saw_meter_mended("tokens")
        shown.show(world.state, {}, {}, 2.0, NOW_MS)
        assert state_of(board, CheckName.STRIPE_SINK) is CheckState.GREEN

    asyncio.run(main())

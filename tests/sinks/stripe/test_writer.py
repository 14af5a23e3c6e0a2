"""The order of a round: intents, requests, outcomes; one request at a time for a customer and meter."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import pytest
from aiokafka import TopicPartition

from schemas.intents import Intent, Outcome, Status, Target, Window
from schemas.totals import StripeHourTotal
from sinks.stripe.errors import Misconfigured, Refused, Replaced, Unknown
from sinks.stripe.port import Accepted, MemoryMeters, MeterEvent, MeterInfo
from sinks.stripe.state import Rules, SinkState
from sinks.stripe.writer import Pacer, RoundDone, Writer

HOUR = 500_000
NOW_MS = HOUR * 3_600_000 + 1_000_000
INFO = MeterInfo("mtr_1", "tokens", "hour", "sum", "stripe_customer_id", "value", active=True)
RULES = Rules(Target.DOUBLE, 0, {"tokens": INFO})


class WatchedMeters(MemoryMeters):
    """Meters in memory that write down what happens, and fail where they are told to."""

    def __init__(self, book: list[str]) -> None:
        super().__init__({"tokens": INFO})
        self.book = book
        self.failures: dict[str, Exception] = {}
        self.under_way: set[str] = set()
        self.most_under_way = 0

    async def send(self, event: MeterEvent) -> Accepted:
        assert event.customer not in self.under_way, "two requests of one customer and meter at once"
        self.under_way.add(event.customer)
        self.most_under_way = max(self.most_under_way, len(self.under_way))
        try:
            await asyncio.sleep(0)
            self.book.append(f"send {event.customer} {event.value}")
            if failure := self.failures.pop(event.value, None):
                raise failure
            return await super().send(event)
        finally:
            self.under_way.discard(event.customer)


class World:
    """A writer over memory, and the book of what it did."""

    def __init__(self, concurrency: int = 8) -> None:
        self.book: list[str] = []
        self.log: list[Intent | Outcome] = []
        self.meters = WatchedMeters(self.book)
        self.state = SinkState(Target.DOUBLE)
        self.said: list[str] = []
        self.writer = Writer(
            self.state,
            self.meters,
            self.commit,
            lambda event, **_: self.said.append(event),
            clock_ms=lambda: NOW_MS,
            concurrency=concurrency,
            rate_per_s=1e6,
        )

    async def commit(self, records: Sequence[Intent | Outcome], _: Mapping[TopicPartition, int], /) -> None:
        self.book.append(f"commit {sum(isinstance(r, Intent) for r in records)} + {len(self.outcomes(records))}")
        self.log += records

    @staticmethod
    def outcomes(records: Sequence[Intent | Outcome]) -> list[Outcome]:
        return [record for record in records if isinstance(record, Outcome)]

    def see(self, customer: str, quantity: str, version: int = 1, hour: int = HOUR) -> None:
        self.state.saw_total(StripeHourTotal(1, 1, 0, version, customer, customer, "tokens", hour, quantity))

    async def round(self) -> RoundDone:
        return await self.writer.round(self.state.take_due(RULES, NOW_MS, 100), {"tokens": INFO}, {})


def test_intents_are_committed_before_any_request_and_outcomes_after_the_last() -> None:
    async def main() -> None:
        world = World()
        world.see("a", "1")
        world.see("b", "2")
        assert await world.round() == RoundDone(intents=2, repeats=0, accepted=2, refused=0, unknown=0)
        assert world.book == ["commit 2 + 0", "send a 1", "send b 2", "commit 0 + 2"]

    asyncio.run(main())


def test_a_refused_commit_of_intents_means_that_nothing_is_asked() -> None:
    async def main() -> None:
        world = World()

        async def replaced(*_: object) -> None:
            raise Replaced("a younger one")

        writer = Writer(
            world.state,
            world.meters,
            replaced,
            lambda *_, **__: None,
            clock_ms=lambda: NOW_MS,
            concurrency=1,
            rate_per_s=1,
        )
        world.see("a", "1")
        with pytest.raises(Replaced):
            await writer.round(world.state.take_due(RULES, NOW_MS, 100), {"tokens": INFO}, {})
        assert world.book == []

    asyncio.run(main())


def test_repeats_ask_the_broker_too_whether_anybody_has_taken_over() -> None:
    async def main() -> None:
        world = World()
        world.see("a", "1")
        world.meters.failures["1"] = Unknown("cut")
        assert (await world.round()).unknown == 1
        world.state.windows[Window("a", "tokens", HOUR)].retry_at_ms = 0
        assert await world.round() == RoundDone(intents=0, repeats=1, accepted=1, refused=0, unknown=0)
        assert world.book == ["commit 1 + 0", "send a 1", "commit 0 + 0", "send a 1", "commit 0 + 1"]

    asyncio.run(main())


def test_hours_of_one_customer_wait_for_each_other_and_stop_at_the_first_without_an_answer() -> None:
    async def main() -> None:
        world = World()
        for hour, quantity in ((HOUR - 2, "1"), (HOUR - 1, "2"), (HOUR, "3")):
            world.see("a", quantity, hour=hour)
        world.see("b", "4")
        world.meters.failures["2"] = Unknown("cut")
        done = await world.round()
        assert (done.intents, done.accepted, done.unknown) == (4, 2, 2)
        assert [line for line in world.book if " a " in line] == ["send a 1", "send a 2"]
        assert world.state.pending_count == 2
        assert world.state.take_due(RULES, NOW_MS, 100) == []
        assert world.state.next_due_ms() == NOW_MS + 250

    asyncio.run(main())


def test_no_more_requests_are_under_way_than_allowed() -> None:
    async def main() -> None:
        world = World(concurrency=3)
        for n in range(20):
            world.see(f"customer-{n}", "1")
        assert (await world.round()).accepted == 20
        assert world.meters.most_under_way == 3

    asyncio.run(main())


def test_a_refusal_is_an_outcome_and_is_said() -> None:
    async def main() -> None:
        world = World()
        world.see("a", "1")
        world.meters.failures["1"] = Refused("payload_invalid_value", "no")
        assert (await world.round()).refused == 1
        (outcome,) = world.outcomes(world.log)
        assert (outcome.status, outcome.code) == (Status.REFUSED, "payload_invalid_value")
        assert world.said == ["sink.stripe.refused"]

    asyncio.run(main())


def test_what_was_heard_before_a_refused_key_is_kept() -> None:
    async def main() -> None:
        world = World()
        world.see("a", "1", hour=HOUR - 1)
        world.see("a", "2")
        world.meters.failures["2"] = Misconfigured("the key")
        with pytest.raises(Misconfigured):
            await world.round()
        assert [outcome.quantity for outcome in world.outcomes(world.log)] == ["1"]
        assert world.state.pending_count == 1

    asyncio.run(main())


def test_a_stop_leaves_the_rest_pending() -> None:
    async def main() -> None:
        world = World()
        for n in range(3):
            world.see("a", str(n + 1), hour=HOUR - n)
        world.writer.is_stopping = lambda: "send a 3" in world.book
        assert (await world.round()).unknown == 2
        assert world.state.pending_count == 2

    asyncio.run(main())


def test_turns_are_evenly_apart_and_unused_ones_are_not_saved_up() -> None:
    pacer = Pacer(100)
    assert [round(pacer.take(10.0), 6) for _ in range(3)] == [0.0, 0.01, 0.02]
    assert round(pacer.take(10.025), 6) == 0.005
    assert pacer.take(60.0) == 0.0
    assert round(pacer.take(60.0), 6) == 0.01

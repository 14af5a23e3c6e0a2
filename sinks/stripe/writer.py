"""One round: what is due is put on the log, told to Stripe, and what came of it is put on the log."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from aiokafka import TopicPartition

from schemas.intents import Intent, Outcome, Status
from sinks.stripe.errors import Refused, StopSink, TryAgain
from sinks.stripe.mapping import to_accepted_outcome, to_meter_event, to_refused_outcome
from sinks.stripe.port import MeterInfo, Meters
from sinks.stripe.state import Send, Settle, SinkState

__all__ = ["Commit", "Pacer", "RoundDone", "Say", "Writer"]

_ROUND_S_MAX = 120.0
"""No request leaves later than this after its round's commit, which showed that nobody had taken over: a process that was
stopped in between and wakes up much later must not tell Stripe what was true then."""


class Commit(Protocol):
    """Puts records on the log, all or none; see `IntentLog.commit`."""

    def __call__(
        self, records: Sequence[Intent | Outcome], read: Mapping[TopicPartition, int], /
    ) -> Awaitable[None]: ...


Say = Callable[..., None]
"""Says a log event: its name, then its fields by name."""


class RoundDone(NamedTuple):
    """How many of each; `unknown` are still pending."""

    intents: int
    repeats: int
    accepted: int
    refused: int
    unknown: int
    not_asked: int = 0
    """Refused without asking: Stripe's meter takes no totals, or is missing."""
    unlinked: int = 0


class Pacer:
    """At most `rate_per_s` turns a second, evenly."""

    def __init__(self, rate_per_s: float) -> None:
        self._step_s = 1 / rate_per_s
        self._next_s = 0.0

    def take(self, now_s: float) -> float:
        """Take a turn; how many seconds from now it is."""
        turn_s = max(self._next_s, now_s)
        self._next_s = turn_s + self._step_s
        return turn_s - now_s


class Writer:
    """Carries out what the state finds due. Raises whatever the log raises; the process then ends."""

    def __init__(
        self,
        state: SinkState,
        meters: Meters,
        commit: Commit,
        say: Say,
        *,
        clock_ms: Callable[[], int],
        concurrency: int,
        rate_per_s: float,
    ) -> None:
        self._state = state
        self._meters = meters
        self._commit = commit
        self._say = say
        self._clock_ms = clock_ms
        self._slots = asyncio.Semaphore(concurrency)
        self._pacer = Pacer(rate_per_s)
        self._stop_reason: StopSink | None = None
        self.is_stopping: Callable[[], bool] = lambda: False
        """Whether to end soon: what was not asked yet then stays pending, for the next process."""

    async def round(
        self, due: Sequence[Send | Settle], infos: Mapping[str, MeterInfo], read: Mapping[TopicPartition, int]
    ) -> RoundDone:
        """Tell Stripe what is due.

        1. One transaction: the new intents. It also shows that no other instance has taken over, for repeats too.
        2. The requests: customers and meters side by side, those of one customer and meter one after another.
        3. One transaction: the outcomes.

        A crash before 1 ends leaves nothing. After it the intents are pending: the next process tells each again, with its
        own identifier and value, before anything newer of its window. That finds the event taken or not, and both end
        in the same value, as the identifier pins it. Returning does not promise that everything is definite: what got no
        answer stays pending, and the state knows when it is due again. Raises StopSink after 3, where Stripe said so in 2.
        Kill tests: `tests/sinks/stripe/test_kill.py`.
        """
        sends = [action.intent for action in due if isinstance(action, Send)]
        fresh = [action.intent for action in due if isinstance(action, Send) and action.is_new]
        await self._commit(fresh, read)  # 1
        self._round_began_s = asyncio.get_running_loop().time()
        for intent in fresh:
            self._state.saw_intent(intent)
        answered = await self._ask_all(sends, infos)  # 2
        settled = [action.outcome for action in due if isinstance(action, Settle)]
        outcomes = settled + answered
        if outcomes:
            await self._commit(outcomes, read)  # 3
        for outcome in outcomes:
            self._state.saw_outcome(outcome)
            self._say_if_not_accepted(outcome)
        if self._stop_reason is not None:
            raise self._stop_reason
        accepted = sum(outcome.status is Status.ACCEPTED for outcome in answered)
        refused = len(answered) - accepted
        not_asked = sum(outcome.status is Status.REFUSED for outcome in settled)
        repeats, unknown = len(sends) - len(fresh), len(sends) - len(answered)
        return RoundDone(len(fresh), repeats, accepted, refused, unknown, not_asked, len(settled) - not_asked)

    async def _ask_all(self, intents: Sequence[Intent], infos: Mapping[str, MeterInfo]) -> list[Outcome]:
        lanes: dict[tuple[str, str], list[Intent]] = defaultdict(list)
        for intent in intents:
            lanes[intent.stripe_customer, intent.stripe_event_name].append(intent)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._ask_lane(lane, infos)) for lane in lanes.values()]
        return [outcome for task in tasks for outcome in task.result()]

    async def _ask_lane(self, lane: Sequence[Intent], infos: Mapping[str, MeterInfo]) -> list[Outcome]:
        """One customer and meter, one request at a time. After one without an answer Stripe may still be busy with it:
        the others wait as long as that one.
        """
        outcomes: list[Outcome] = []
        async with self._slots:
            for at, intent in enumerate(lane):
                if not self._may_ask():
                    break
                outcome = await self._ask(intent, infos.get(intent.stripe_event_name))
                if outcome is None:
                    self._let_wait(intent, lane[at + 1 :])
                    break
                outcomes.append(outcome)
        return outcomes

    async def _ask(self, intent: Intent, info: MeterInfo | None) -> Outcome | None:
        """The definite outcome of one request; None where there is none yet."""
        await asyncio.sleep(self._pacer.take(asyncio.get_running_loop().time()))
        try:
            accepted = await self._meters.send(to_meter_event(intent, info))
        except Refused as refusal:
            return to_refused_outcome(intent, refusal, self._clock_ms())
        except TryAgain as exc:
            self._say("sink.stripe.unknown", identifier=intent.identifier, why=exc)
            return None
        except StopSink as exc:
            self._stop_reason = exc  # raised once what the others heard is on the log
            return None
        return to_accepted_outcome(intent, accepted, self._clock_ms())

    def _let_wait(self, unanswered: Intent, others: Sequence[Intent]) -> None:
        now_ms = self._clock_ms()
        wait_ms = self._state.saw_no_answer(unanswered, now_ms)
        for intent in others:
            self._state.saw_no_turn(intent, now_ms, wait_ms)

    def _may_ask(self) -> bool:
        stale = asyncio.get_running_loop().time() - self._round_began_s > _ROUND_S_MAX
        return not (stale or self.is_stopping() or self._stop_reason is not None)

    def _say_if_not_accepted(self, outcome: Outcome) -> None:
        if outcome.status is Status.ACCEPTED:
            return
        self._say(
            "sink.stripe.unlinked" if outcome.status is Status.UNLINKED else "sink.stripe.refused",
            customer=outcome.stripe_customer,
            meter=outcome.stripe_event_name,
            hour=outcome.hour,
            quantity=outcome.quantity,
            code=outcome.code,
            message=outcome.message,
        )

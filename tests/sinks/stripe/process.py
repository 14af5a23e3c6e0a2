"""The sink as a process of a test: `python -m tests.sinks.stripe.process CONFIG`, with a place to die or a planted fault.

CONFIG is JSON: the fields of StripeSinkConfig, and `die_at`: a gap of the round's order and how often it is passed first,
and `plant`: a mistake that the tests must find.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from aiokafka import TopicPartition

import sinks.stripe.sink as sink_module
from schemas.intents import Intent, Outcome
from sinks.stripe.port import MeterInfo
from sinks.stripe.state import Send, Settle
from sinks.stripe.writer import RoundDone, Writer

GAPS = ("before_intents", "before_requests", "between_requests", "before_outcomes", "after_outcomes")


class Death:
    """SIGKILL at the n-th passage of a gap."""

    def __init__(self, gap: str | None, passages: int) -> None:
        self._gap, self._left = gap, passages

    def passes(self, gap: str) -> None:
        if gap == self._gap:
            self._left -= 1
            if self._left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)


class DyingWriter(Writer):
    """The real writer, which dies where it is told to."""

    death = Death(None, 0)

    async def round(
        self, due: Sequence[Send | Settle], infos: Mapping[str, MeterInfo], read: Mapping[TopicPartition, int]
    ) -> RoundDone:
        self.death.passes("before_intents")
        commits = self._commit
        count = 0

        async def commit(records: Sequence[Intent | Outcome], read: Mapping[TopicPartition, int], /) -> None:
            nonlocal count
            count += 1
            if count == 2:
                self.death.passes("before_outcomes")
            await commits(records, read)
            if count == 1:
                self.death.passes("before_requests")

        self._commit = commit
        try:
            done = await super().round(due, infos, read)
        finally:
            self._commit = commits
        self.death.passes("after_outcomes")
        return done

    async def _ask(self, intent: Intent, info: MeterInfo | None) -> Outcome | None:
        outcome = await super()._ask(intent, info)
        self.death.passes("between_requests")
        return outcome


class IntentAfterRequest(DyingWriter):
    """Planted: Stripe is told first, and the intent is noted with what came of it."""

    async def round(
        self, due: Sequence[Send | Settle], infos: Mapping[str, MeterInfo], read: Mapping[TopicPartition, int]
    ) -> RoundDone:
        fresh = [action.intent for action in due if isinstance(action, Send) and action.is_new]
        for intent in fresh:
            self._state.saw_intent(intent)
        sends = [action.intent for action in due if isinstance(action, Send)]
        self._round_began_s = float("inf")
        outcomes = await self._ask_all(sends, infos)
        await self._commit([*fresh, *outcomes], read)
        for outcome in outcomes:
            self._state.saw_outcome(outcome)
        return RoundDone(len(fresh), 0, len(outcomes), 0, 0)


class UnknownIsFailure(Writer):
    """Planted: no answer counts as not taken, and the next total goes out under an identifier of its own."""

    def _let_wait(self, unanswered: Intent, others: Sequence[Intent]) -> None:
        known = self._state.windows[unanswered.window]
        known.pending = None
        known.series += 1


PLANTS: dict[str | None, type[Writer]] = {
    None: DyingWriter,
    "intent_after_request": IntentAfterRequest,
    "unknown_is_failure": UnknownIsFailure,
}


def main(given: dict[str, Any]) -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    DyingWriter.death = Death(*(given.pop("die_at", None) or (None, 0)))
    setattr(sink_module, "Writer", PLANTS[given.pop("plant", None)])  # noqa: B010  mypy refuses the plain form
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    return sink_module.run(sink_module.StripeSinkConfig(**given), stop)


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))

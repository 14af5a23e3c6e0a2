"""POST /v1/events: usage events in, acknowledged when the log has them."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from api.auth import authorize
from api.bodies import read_body
from api.envelope import correlation_id, json_response
from api.errors import AllRejected, Busy
from api.event_log import EventLog
from api.items import split
from api.judging import Rejected, Verdict, judge
from api.key_ring import KeyRing
from api.say import say
from observe.api import ApiEvent
from observe.figures import FIGURES
from observe.metrics import API_EVENTS

__all__ = ["EventDoor"]

_SLICE_EVENTS: Final = 500
"""Judged at a time, 5 ms; between slices the loop serves others."""
_DETAILS_MAX: Final = 100


class EventDoor:
    """The route's collaborators, and how many requests it works on at once."""

    def __init__(self, log: EventLog, ring: KeyRing, now_ms: Callable[[], int], requests_max: int) -> None:
        self._log = log
        self._ring = ring
        self._now_ms = now_ms
        self._requests_max = requests_max
        self._requests = 0

    async def post(self, request: Request) -> Response:
        """Answers 202 when all of the batch that was not rejected is acknowledged; the rest is in `errors`' tree.

        After a 503 some of the batch may be on the log: it must be sent again whole, and the fold drops what it knows.
        """
        key = authorize(request.headers, self._ring, "ingest")
        if self._requests >= self._requests_max:
            say(ApiEvent.BUSY, level=logging.WARNING, what="requests", limit=self._requests_max)
            raise Busy("too many batches are being taken in; send this one again")
        self._requests += 1
        try:
            verdict = await self._judged(request.stream(), request.headers, key.org)
            await self._log.append(verdict.taken)
        finally:
            self._requests -= 1
        _count(verdict)
        return _answer(verdict, correlation_id(request.headers))

    async def _judged(self, chunks: AsyncIterator[bytes], headers: Mapping[str, str], org: str) -> Verdict:
        batch = split(await read_body(chunks, headers), headers)
        now_ms = self._now_ms()
        verdict = Verdict()
        for start in range(0, len(batch.items), _SLICE_EVENTS):
            judge(batch, start, start + _SLICE_EVENTS, org, now_ms, verdict)
            await asyncio.sleep(0)
        return verdict


def _count(verdict: Verdict) -> None:
    if verdict.taken:
        FIGURES.add(API_EVENTS, len(verdict.taken), "accepted", "")
    for reason, count in Counter(rejected.reason for rejected in verdict.rejected).items():
        FIGURES.add(API_EVENTS, count, "rejected", reason)


def _answer(verdict: Verdict, correlation: str) -> Response:
    if not verdict.taken:
        msg = f"each of the {len(verdict.rejected)} events was refused; see rejected"
        beside = {"accepted": 0, "rejected": verdict.rejected}
        raise AllRejected(msg, details=_details(verdict.rejected), beside=beside)
    return json_response(202, {"accepted": len(verdict.taken), "rejected": verdict.rejected}, correlation)


def _details(rejected: list[Rejected]) -> dict[str, str]:
    """What is wrong by field, as every 400 says it; of the first hundred only, `rejected` has them all."""
    return {
        f"events[{item.index}]{f'.{item.field}' if item.field else ''}": item.message
        for item in rejected[:_DETAILS_MAX]
    }

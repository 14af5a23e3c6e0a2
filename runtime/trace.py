"""The demo's usage: an hour of real LLM requests (see examples/README.md), made into what a producer would send.

Everything that is made up (customers, models, features, repeats, failures, broken records) follows from one fixed seed, so
that two demos send the same usage, shifted by whole hours.
"""

import csv
import gzip
import random
from bisect import bisect_left
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import msgspec

from billing.accounts.types import AccountName
from billing.catalog.builtin import LLM_CALL
from billing.records import Status, UsageEvent
from schemas.codec import encode

__all__ = ["ORG", "TRACE_FILE", "Feed", "Sent", "read_trace", "shift_hours"]

TRACE_FILE = Path(__file__).parent.parent / "examples" / "azure-llm-trace-2023-conv.csv.gz"
ORG = "demo"
_SEED = 20231116
_CUSTOMERS = 60
_ZIPF_EXPONENT = 1.1
_REPEATED_SHARE = 0.03
_FAILED_SHARE = 0.01
_BROKEN_SHARE = 0.005
_REPEAT_DISTANCE_MAX = 400
"""A repeat follows its first sending by at most so many events: some land in the same batch, some in another."""
_HOUR_US = 3_600_000_000
_FEATURES = ("chat", "search", "summarise", "agent")
_MODELS = ("gpt-5-mini", "gpt-5", "claude-sonnet-4-5")


class Request(NamedTuple):
    """One line of the trace."""

    at_us: int
    input_tokens: int
    output_tokens: int


class Sent(NamedTuple):
    """What the demo sends: an event over HTTP, or (`value`) raw bytes straight to Kafka, as a broken producer would."""

    account: AccountName
    event: UsageEvent
    value: bytes | None
    repeat: bool


def read_trace(path: Path = TRACE_FILE) -> list[Request]:
    """The trace's requests in order. Times are UTC with seven decimals, of which six are kept."""
    with gzip.open(path, "rt", newline="") as file:
        return [
            Request(_micros(row["TIMESTAMP"]), int(row["ContextTokens"]), int(row["GeneratedTokens"]))
            for row in csv.DictReader(file)
        ]


def shift_hours(requests: list[Request], now_ms: int) -> int:
    """Whole hours by which the trace must move so that its last request lies within the hour before `now_ms`."""
    return (now_ms * 1_000 - requests[-1].at_us) // _HOUR_US


class Feed:
    """All that the demo sends, in order."""

    def __init__(self, requests: list[Request], now_ms: int) -> None:
        self.shift_hours = shift_hours(requests, now_ms)
        self._requests = requests
        weights = list(accumulate(1 / rank**_ZIPF_EXPONENT for rank in range(1, _CUSTOMERS + 1)))
        self._shares = [weight / weights[-1] for weight in weights]

    def __iter__(self) -> Iterator[Sent]:
        rng = random.Random(_SEED)
        repeats: dict[int, list[Sent]] = {}
        for number, request in enumerate(self._requests):
            first = self._first(number, request, rng)
            yield first
            if first.value is None and rng.random() < _REPEATED_SHARE:
                distance = 1 + int(rng.random() * _REPEAT_DISTANCE_MAX)
                repeats.setdefault(number + distance, []).append(first._replace(repeat=True))
            yield from repeats.pop(number, ())
        for late in sorted(repeats):
            yield from repeats[late]

    def _first(self, number: int, request: Request, rng: random.Random) -> Sent:
        rank = bisect_left(self._shares, rng.random())
        customer = f"customer-{rank + 1:02d}"
        event = UsageEvent(
            event_id=f"azure-{number:05d}",
            occurred_at_us=request.at_us + self.shift_hours * _HOUR_US,
            customer_id=customer,
            event_type=LLM_CALL,
            status=Status.FAILED if rng.random() < _FAILED_SHARE else Status.SUCCEEDED,
            feature=_FEATURES[int(rng.random() * len(_FEATURES))],
            model=_MODELS[rank % len(_MODELS)],
            input_tokens=request.input_tokens,
            output_tokens=request.output_tokens,
        )
        value = _broken(event, int(rng.random() * 5)) if rng.random() < _BROKEN_SHARE else None
        return Sent(AccountName(ORG, customer), event, value, repeat=False)


def _broken(event: UsageEvent, kind: int) -> bytes:
    """What broken producers put on the log: five ways, each refused for another reason."""
    match kind:
        case 0:
            return b'{"this is": "JSON, not Avro"}'
        case 1:
            return encode(event)[:-9]
        case 2:
            return encode(msgspec.structs.replace(event, quantity="-1"))
        case 3:
            return encode(msgspec.structs.replace(event, customer_id="somebody-else"))
        case _:
            return encode(msgspec.structs.replace(event, occurred_at_us=event.occurred_at_us - 70 * 24 * _HOUR_US))


def _micros(text: str) -> int:
    moment = datetime.strptime(text[:26], "%Y-%m-%d %H:%M:%S.%f").replace(tzinfo=UTC)
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds

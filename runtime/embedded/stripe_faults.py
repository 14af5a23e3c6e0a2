"""What can be made to go wrong between a client and the double, for tests of what the client does about it."""

from __future__ import annotations

import random
from collections import Counter, deque
from enum import StrEnum

import msgspec

__all__ = ["Fault", "FaultOrder", "Faults"]


class Fault(StrEnum):
    """One way in which one meter event's request goes wrong."""

    RATE_LIMITED = "rate_limited"
    """429, nothing taken."""
    ERROR_500 = "error_500"
    """500, nothing taken."""
    ERROR_500_AFTER_COMMIT = "error_500_after_commit"
    """500 although the event was taken."""
    CUT_BEFORE_COMMIT = "cut_before_commit"
    CUT_AFTER_COMMIT = "cut_after_commit"
    """The connection ends without an answer, and the kept answer is lost with it: a repeat meets its own identifier."""
    TIMEOUT_BEFORE_COMMIT = "timeout_before_commit"
    """No answer for `hang_ms`, then the connection ends; nothing taken."""
    TIMEOUT_AFTER_COMMIT = "timeout_after_commit"
    """Taken at once, no answer for `hang_ms`."""
    LATE_COMMIT = "late_commit"
    """Under way for `hang_ms`, and judged only then, when the client has long given up, asked again or told something newer."""


class FaultOrder(msgspec.Struct, forbid_unknown_fields=True):
    """What a test asks for; each order replaces the one before."""

    next: list[Fault | None] = []
    """What happens to the next requests, one after another; None lets one pass."""
    rates: dict[Fault, float] = {}
    """Afterwards: the probability of each."""
    seed: int = 0
    hang_ms: int = 1_000


class Faults:
    """Draws the fault of each request, and counts what it drew."""

    def __init__(self) -> None:
        self.drawn: Counter[str] = Counter()
        self.hanging = 0
        """Requests that a fault holds up now."""
        self.obey(FaultOrder())

    def obey(self, order: FaultOrder) -> None:
        assert sum(order.rates.values()) <= 1, "the probabilities of faults add up to more than 1"
        self._next = deque(order.next)
        self._rates = order.rates
        self._random = random.Random(order.seed)
        self.hang_s = order.hang_ms / 1_000

    def draw(self) -> Fault | None:
        fault = self._next.popleft() if self._next else self._by_chance()
        if fault is not None:
            self.drawn[fault] += 1
        return fault

    def _by_chance(self) -> Fault | None:
        if not self._rates:
            return None
        point = self._random.random()
        for fault, rate in self._rates.items():
            point -= rate
            if point < 0:
                return fault
        return None

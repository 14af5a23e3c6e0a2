"""Makes a failing history small: steps go as long as it still fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tests.simulation.plan import Plan

__all__ = ["shrunk"]

_RUNS_MAX = 600


def shrunk(plan: Plan, fails: Callable[[Plan], bool]) -> Plan:
    """The smallest part of `plan` found that still fails: ever smaller pieces are left out in turn."""
    numbers = [step.number for step in plan.steps]
    runs_left = _RUNS_MAX
    size = len(numbers) // 2
    while size and runs_left > 0:
        smaller = False
        for start in range(0, len(numbers), size):
            rest = _without(numbers, start, size)
            runs_left -= 1
            if runs_left > 0 and len(rest) < len(numbers) and fails(plan.only(rest)):
                numbers, smaller = rest, True
                break
        if not smaller:
            size //= 2
    return plan.only(numbers)


def _without(numbers: Sequence[int], start: int, count: int) -> list[int]:
    return [*numbers[:start], *numbers[start + count :]]

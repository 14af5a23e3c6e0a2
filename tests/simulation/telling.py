"""A failing history as a person reads it: what was planned, what happened, what does not add up, how to repeat it."""

from __future__ import annotations

from tests.simulation.plan import Plan
from tests.simulation.shrink import shrunk
from tests.simulation.world import Outcome, play

__all__ = ["minimal_history", "told"]


def minimal_history(plan: Plan) -> str:
    """The smallest part of the plan that still fails, in words."""
    small = shrunk(plan, lambda part: bool(play(part).differences))
    return told(small, play(small))


def told(plan: Plan, outcome: Outcome) -> str:
    """Plan and outcome of one history."""
    numbers = ",".join(str(step.number) for step in plan.steps)
    return "\n".join(
        (
            f"seed {plan.seed}: {plan.partition_count} partitions, {plan.node_count} workers, {len(plan.steps)} steps",
            *(f"  {step}" for step in plan.steps),
            "what happened:",
            *(f"  {line}" for line in outcome.told),
            "what does not add up:",
            *(f"  {difference}" for difference in outcome.differences),
            "again:",
            f"  .venv/bin/python -m tests.simulation play {plan.seed} --only {numbers}",
        )
    )

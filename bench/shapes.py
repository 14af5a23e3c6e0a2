"""The events that are folded, by how many meters each matches, and the catalog under which they match them."""

from __future__ import annotations

from typing import Final, NamedTuple

from billing.catalog.builtin import BUILTIN_CATALOG, LLM_CALL
from billing.catalog.types import Catalog, Meter, PlanMeter, StripeKind, Value

__all__ = ["SHAPES", "Shape", "bench_catalog"]


class Shape(NamedTuple):
    """One kind of event. Its accounts are an organisation of their own, named like the shape."""

    name: str
    event_type: str
    meters: tuple[Meter, ...]
    """What it matches. The first two are what Stripe gets, as in the built-in plan (calls and tokens)."""
    has_parts: bool
    """Whether cached and reasoning tokens are given, beside input and output tokens."""

    @property
    def stripe_meters(self) -> tuple[str, ...]:
        return tuple(meter.slug for meter in self.meters[:2])


def _shape(name: str, event_type: str, values: dict[str, Value], *, has_parts: bool) -> Shape:
    meters = tuple(Meter(slug, event_type=event_type, value=value) for slug, value in values.items())
    return Shape(name, event_type, meters, has_parts)


_SEVEN = {
    "seven_calls": Value.QUANTITY,
    "seven_tokens": Value.TOTAL_TOKENS,
    "seven_input": Value.INPUT_TOKENS,
    "seven_output": Value.OUTPUT_TOKENS,
    "seven_cached": Value.CACHED_TOKENS,
    "seven_reasoning": Value.REASONING_TOKENS,
    "seven_requests": Value.QUANTITY,
}
_BUILTIN = {
    "calls": Value.QUANTITY,
    "tokens": Value.TOTAL_TOKENS,
    "input_tokens": Value.INPUT_TOKENS,
    "output_tokens": Value.OUTPUT_TOKENS,
}

SHAPES: Final = {
    shape.name: shape
    for shape in (
        _shape("two", "bench.two", {"two_calls": Value.QUANTITY, "two_tokens": Value.TOTAL_TOKENS}, has_parts=False),
        _shape("seven", "bench.seven", _SEVEN, has_parts=True),
        # What `llm.call` matches today; the others stay comparable when the built-in catalog changes.
        _shape("builtin", LLM_CALL, _BUILTIN, has_parts=False),
    )
}


def bench_catalog() -> Catalog:
    """The built-in catalog, and the meters of the shapes that it lacks."""
    added = [meter for shape in SHAPES.values() for meter in shape.meters if meter.slug not in BUILTIN_CATALOG.meters]
    slugs = {slug for shape in SHAPES.values() for slug in shape.stripe_meters}
    plans = []
    for plan in BUILTIN_CATALOG.plans.values():
        meters = plan.meters | {slug: PlanMeter(stripe=StripeKind.QUANTITY) for slug in slugs}
        plans.append(type(plan)(plan.ref, plan.name, plan.quota_period, meters, plan.billing_period))
    return Catalog.build(
        revision=BUILTIN_CATALOG.revision,
        currency=BUILTIN_CATALOG.currency,
        meters=[*BUILTIN_CATALOG.meters.values(), *added],
        plans=plans,
        default=BUILTIN_CATALOG.default_plan,
    )

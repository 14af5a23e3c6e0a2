"""The catalog: which meters exist, which plans, and what an event of each type is worth."""

from collections.abc import Iterable
from enum import StrEnum

import msgspec

from billing.periods import PeriodKind

__all__ = ["Catalog", "Meter", "Plan", "PlanMeter", "PlanRef", "StripeKind", "Value"]


class Value(StrEnum):
    """Where a meter takes its quantity from, when an event's type matches it."""

    QUANTITY = "quantity"
    INPUT_TOKENS = "input_tokens"
    OUTPUT_TOKENS = "output_tokens"
    TOTAL_TOKENS = "total_tokens"
    CACHED_TOKENS = "cached_tokens"
    REASONING_TOKENS = "reasoning_tokens"


class StripeKind(StrEnum):
    """What Stripe gets of a meter."""

    NONE = "none"
    QUANTITY = "quantity"


class Meter(msgspec.Struct, frozen=True):
    slug: str
    event_type: str | None = None
    """Events of this type count here. None: only events that name the meter do."""
    value: Value = Value.QUANTITY
    custom: bool = False
    """A custom meter counts only where a plan names it."""


class PlanMeter(msgspec.Struct, frozen=True):
    limit_nano: int | None = None
    """Quota of a period in nano-units. None: unlimited, counted all the same."""
    stripe: StripeKind = StripeKind.NONE
    stripe_event_name: str | None = None
    """Stripe's name of the meter's events. None: the meter's slug."""


class PlanRef(msgspec.Struct, frozen=True, array_like=True):
    """A plan at a version; versions never change."""

    plan_id: str
    version: int


class Plan(msgspec.Struct, frozen=True):
    ref: PlanRef
    name: str
    quota_period: PeriodKind
    meters: dict[str, PlanMeter]
    billing_period: PeriodKind = PeriodKind.MONTH
    bill_failed_calls: bool = False


class Catalog(msgspec.Struct, frozen=True):
    """One revision. `meters` by slug, `plans` by reference."""

    revision: int
    currency: str
    default_plan: PlanRef
    meters: dict[str, Meter]
    meters_of: dict[str, tuple[Meter, ...]]
    """By event type: the meters that such an event counts on, in the catalog's order."""
    plans: dict[PlanRef, Plan]
    create_customers: bool = True

    @classmethod
    def build(
        cls, revision: int, currency: str, meters: Iterable[Meter], plans: Iterable[Plan], default: PlanRef
    ) -> "Catalog":
        """A catalog of these meters and plans."""
        by_slug = {meter.slug: meter for meter in meters}
        meters_of: dict[str, tuple[Meter, ...]] = {}
        for meter in by_slug.values():
            if meter.event_type is not None:
                meters_of[meter.event_type] = (*meters_of.get(meter.event_type, ()), meter)
        return cls(revision, currency, default, by_slug, meters_of, {plan.ref: plan for plan in plans})

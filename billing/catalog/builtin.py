"""The catalog that a new deployment starts with: the built-in meters, and one plan without limits."""

from billing.catalog.types import Catalog, Meter, Plan, PlanMeter, PlanRef, StripeKind, Value
from billing.periods import PeriodKind

__all__ = ["BUILTIN_CATALOG", "LLM_CALL"]

LLM_CALL = "llm.call"
"""The built-in event type: one call of a language model, with its token counts."""

_METERS = (
    Meter("calls", event_type=LLM_CALL),
    Meter("premium_calls"),
    Meter("tokens", event_type=LLM_CALL, value=Value.TOTAL_TOKENS),
    Meter("premium_tokens"),
    Meter("input_tokens", event_type=LLM_CALL, value=Value.INPUT_TOKENS),
    Meter("output_tokens", event_type=LLM_CALL, value=Value.OUTPUT_TOKENS),
    Meter("cached_tokens", event_type=LLM_CALL, value=Value.CACHED_TOKENS),
    Meter("reasoning_tokens", event_type=LLM_CALL, value=Value.REASONING_TOKENS),
    Meter("searches"),
    Meter("audio"),
    Meter("audio_seconds"),
    Meter("images"),
    Meter("custom1", custom=True),
    Meter("custom2", custom=True),
)

_DEFAULT = Plan(
    ref=PlanRef("default", 1),
    name="Default",
    quota_period=PeriodKind.MONTH,
    meters={
        "calls": PlanMeter(stripe=StripeKind.QUANTITY),
        "tokens": PlanMeter(stripe=StripeKind.QUANTITY),
        "searches": PlanMeter(stripe=StripeKind.QUANTITY),
        "images": PlanMeter(stripe=StripeKind.QUANTITY),
        "audio_seconds": PlanMeter(stripe=StripeKind.QUANTITY),
    },
)

BUILTIN_CATALOG = Catalog.build(revision=0, currency="USD", meters=_METERS, plans=[_DEFAULT], default=_DEFAULT.ref)

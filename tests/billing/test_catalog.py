"""The catalog: which meters an event counts on, in which order."""

from __future__ import annotations

from billing.catalog.builtin import BUILTIN_CATALOG, LLM_CALL
from billing.catalog.types import Catalog, Meter
from billing.metering.rules import measured
from tests.billing.harness import CATALOG, usage

BUILT_IN = [
    "calls", "premium_calls", "tokens", "premium_tokens", "input_tokens", "output_tokens", "cached_tokens",
    "reasoning_tokens", "searches", "audio", "audio_seconds", "images", "custom1", "custom2",
]  # fmt: skip


def test_the_built_in_meters_are_these() -> None:
    assert list(BUILTIN_CATALOG.meters) == BUILT_IN
    assert [meter.slug for meter in BUILTIN_CATALOG.meters.values() if meter.custom] == ["custom1", "custom2"]


def test_the_default_plan_is_there_and_names_known_meters() -> None:
    plan = BUILTIN_CATALOG.plans[BUILTIN_CATALOG.default_plan]
    assert set(plan.meters) <= set(BUILTIN_CATALOG.meters)
    assert all(meter.limit_nano is None for meter in plan.meters.values())


def test_an_event_type_counts_on_its_meters_in_the_catalogs_order() -> None:
    """The order of a fact's entries: an order of its own in each process would be a ledger of its own."""
    assert [meter.slug for meter in BUILTIN_CATALOG.meters_of[LLM_CALL]] == [
        slug for slug in BUILT_IN if slug == "calls" or (slug.endswith("tokens") and not slug.startswith("premium"))
    ]
    meters = [Meter("b", event_type="t"), Meter("c"), Meter("a", event_type="t")]
    built = Catalog.build(1, "USD", meters, CATALOG.plans.values(), CATALOG.default_plan)
    assert [meter.slug for meter in built.meters_of["t"]] == ["b", "a"]


def test_an_event_counts_only_on_meters_that_it_says_something_of() -> None:
    event = usage(event_type=LLM_CALL, output_tokens=0)
    assert [(meter.slug, nano) for meter, nano in measured(event, 7, BUILTIN_CATALOG)] == [
        ("calls", 7),
        ("tokens", 0),
        ("output_tokens", 0),
    ]
    assert measured(usage(meter="images"), 7, BUILTIN_CATALOG) == ((BUILTIN_CATALOG.meters["images"], 7),)
    assert measured(usage(event_type="unheard.of"), 7, BUILTIN_CATALOG) == ()

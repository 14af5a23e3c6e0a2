"""What may be counted: the rules of a usage event, one place for every door and for the fold."""

import re
from typing import Final

from billing.catalog.types import Catalog, Meter, Value
from billing.errors import InvalidField
from billing.facts import Reason
from billing.quantities import NANO, parse_quantity
from billing.records import Status, UsageEvent

__all__ = [
    "FUTURE_MS_MAX",
    "ID_BYTES_MAX",
    "LABEL_BYTES_MAX",
    "PAIRS_PER_DAY_MAX",
    "PROPERTIES_MAX",
    "PROPERTY_BYTES_MAX",
    "SEEN_MS",
    "TAGS_MAX",
    "TOKENS_MAX",
    "WINDOW_MS",
    "check_fields",
    "check_time",
    "measured",
]

WINDOW_MS = 34 * 86_400_000
"""The dedupe window: how far back usage is taken, and how long an event id is remembered (and a day more)."""
SEEN_MS = WINDOW_MS + 86_400_000
"""How long an event id counts as met, by log time from its acceptance: before that moment it is met, from it on no more. The day
more than the window keeps it met for any event that `check_time` lets pass."""
FUTURE_MS_MAX = 5 * 60_000
ID_BYTES_MAX = 256
LABEL_BYTES_MAX = 128
TAGS_MAX = 32
PROPERTIES_MAX = 64
PROPERTY_BYTES_MAX = 1_024
TOKENS_MAX = 10**15
PAIRS_PER_DAY_MAX = 200
"""Feature and model pairs that totals keep apart for a customer in a day: what one customer can make the tables grow by."""
_TIME_US_MAX = 253_402_300_800 * 10**6  # the year 10000, in microseconds: every tool downstream ends there

# A fixed list of code points instead of Unicode's categories, which differ between versions of a language's tables.
# Surrogates are no text: JSON can spell half a pair, and no wire of ours could carry it.
_FORBIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")
_STATUSES = frozenset(Status)
# To look up an enum's member by its class takes 0.09 µs (Python 3.11), once for each meter of each event.
_QUANTITY: Final = Value.QUANTITY
_TOTAL_TOKENS: Final = Value.TOTAL_TOKENS
_TOKEN_FIELDS = ("input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens")


def check_fields(event: UsageEvent) -> int:
    """The event's quantity in nano-units. Raises InvalidField, naming the field, when a value breaks a rule."""
    _check_text("event_id", event.event_id, ID_BYTES_MAX)
    _check_text("customer_id", event.customer_id, ID_BYTES_MAX)
    if not 0 <= event.occurred_at_us < _TIME_US_MAX:
        raise InvalidField("occurred_at", "lies outside the years 1970 to 9999")
    if (event.meter is None) == (event.event_type is None):
        raise InvalidField("meter", "exactly one of meter and event_type is needed")
    if event.meter is not None:
        _check_text("meter", event.meter, LABEL_BYTES_MAX)
    if event.event_type is not None:
        _check_text("event_type", event.event_type, LABEL_BYTES_MAX)
    if event.feature is not None:
        _check_text("feature", event.feature, LABEL_BYTES_MAX)
    if event.model is not None:
        _check_text("model", event.model, LABEL_BYTES_MAX)
    if event.status not in _STATUSES:
        raise InvalidField("status", f"{event.status[:48]!a} is neither succeeded nor failed")
    if event.tags or event.properties:
        _check_labels(event)
    _check_tokens(event)
    return parse_quantity(event.quantity)


def check_time(occurred_at_us: int, now_ms: int) -> tuple[Reason, str] | None:
    """Why an event of that time cannot be taken at `now_ms`, or None when it can."""
    ahead_ms = occurred_at_us // 1_000 - now_ms
    if ahead_ms > FUTURE_MS_MAX:
        return (
            Reason.IN_FUTURE,
            f"occurred_at is {ahead_ms // 1_000} s ahead of the log; at most {FUTURE_MS_MAX // 1_000} s are taken",
        )
    if ahead_ms < -WINDOW_MS:
        days = -ahead_ms // 86_400_000
        return Reason.TOO_OLD, f"occurred_at is {days} days back; at most {WINDOW_MS // 86_400_000} are taken"
    return None


def measured(event: UsageEvent, quantity_nano: int, catalog: Catalog) -> tuple[tuple[Meter, int], ...]:
    """The meters that the event counts on, each with its quantity in nano-units; empty when the catalog knows none."""
    if event.meter is not None:
        meter = catalog.meters.get(event.meter)
        return () if meter is None else ((meter, quantity_nano),)
    assert event.event_type is not None, "check_fields lets exactly one of meter and event_type pass"
    return tuple(
        [
            (meter, nano)
            for meter in catalog.meters_of.get(event.event_type, ())
            if (nano := _value(meter.value, event, quantity_nano)) is not None
        ]
    )


def _value(value: Value, event: UsageEvent, quantity_nano: int) -> int | None:
    if value is _QUANTITY:
        return quantity_nano
    if value is _TOTAL_TOKENS:
        if event.input_tokens is None and event.output_tokens is None:
            return None
        return ((event.input_tokens or 0) + (event.output_tokens or 0)) * NANO
    tokens: int | None = getattr(event, value)  # the other values are the names of their fields
    return None if tokens is None else tokens * NANO


def _check_text(field: str, text: str, bytes_max: int) -> None:
    if not text:
        raise InvalidField(field, "is empty; send at least one character")
    if len(text) <= bytes_max and text.isascii() and text.isprintable():
        return
    size_bytes = len(text.encode("utf-8", "surrogatepass"))
    if size_bytes > bytes_max:
        raise InvalidField(field, f"is {size_bytes} bytes of UTF-8; at most {bytes_max} are taken")
    if found := _FORBIDDEN.search(text):
        raise InvalidField(field, f"holds the character U+{ord(found.group()):04X}; it is not taken in any text")


def _check_labels(event: UsageEvent) -> None:
    if len(event.tags) > TAGS_MAX:
        raise InvalidField("tags", f"has {len(event.tags)} items; at most {TAGS_MAX} are taken")
    for tag in event.tags:
        _check_text("tags", tag, LABEL_BYTES_MAX)
    if len(event.properties) > PROPERTIES_MAX:
        raise InvalidField("properties", f"has {len(event.properties)} items; at most {PROPERTIES_MAX} are taken")
    for name, text in event.properties.items():
        _check_text("properties", name, LABEL_BYTES_MAX)
        if text:
            _check_text(f"properties.{name}", text, PROPERTY_BYTES_MAX)


def _check_tokens(event: UsageEvent) -> None:
    cached, whole_input = event.cached_tokens or 0, event.input_tokens or 0
    reasoning, whole_output = event.reasoning_tokens or 0, event.output_tokens or 0
    if 0 <= cached <= whole_input <= TOKENS_MAX and 0 <= reasoning <= whole_output <= TOKENS_MAX:
        return  # nearly always; what follows finds the field at fault
    for field in _TOKEN_FIELDS:
        tokens: int | None = getattr(event, field)
        if tokens is not None and not 0 <= tokens <= TOKENS_MAX:
            raise InvalidField(field, f"{tokens} is not between 0 and {TOKENS_MAX}")
    _check_part(event.cached_tokens, event.input_tokens, "cached_tokens", "input_tokens")
    _check_part(event.reasoning_tokens, event.output_tokens, "reasoning_tokens", "output_tokens")


def _check_part(part: int | None, whole: int | None, part_field: str, whole_field: str) -> None:
    if part is not None and part > (whole or 0):
        raise InvalidField(part_field, f"{part} is more than the {whole_field} ({whole}) that it is a part of")

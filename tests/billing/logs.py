"""Strategies: what producers, clocks and strangers may put on the log."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import strategies as st

from billing.records import Command, Genesis, Record, Tick, Unreadable, UsageEvent
from tests.billing.harness import DAY_MS, HOUR_MS, T0_MS, Entry, usage

__all__ = ["ACCOUNTS", "FLAWS", "advances", "logs", "respelled", "strangers", "usage_events"]

ACCOUNTS = ["acme/alice", "acme/bob", "acme-2/alice", "acme/\u00e9l\u00e8ve/1"]
AGES_MS = [
    0, 1, 59 * 60_000, HOUR_MS, 23 * HOUR_MS, DAY_MS, 3 * DAY_MS, 33 * DAY_MS, 34 * DAY_MS, 34 * DAY_MS + 1,
    -300_000, -300_001,
]  # fmt: skip
METERS = ["calls", "images", "output_tokens", "custom1", "custom2", "nonsense"]
EVENT_TYPES = ["llm.call", "llm.call", "report.generated", "draft.generated", "sip", "nonsense"]
QUANTITIES = ["1", "0", "2.5", "1.50", "0.000000001", "999999999999999999.999999999", "0007"]

advances = st.sampled_from([0, 1, 1_000, HOUR_MS, DAY_MS - 1, DAY_MS, 34 * DAY_MS, 35 * DAY_MS - 1, 35 * DAY_MS])
"""Milliseconds that pass between two records."""

FLAWS: dict[str, dict[str, Any]] = {
    "quantity": {"quantity": "-1"},
    "status": {"status": "pending"},
    "meter": {"meter": "calls", "event_type": "llm.call"},
    "tags": {"tags": ("",)},
    "event_id": {"event_id": ""},
}
"""By the field at fault: what to do to an event."""

_token_counts = st.none() | st.sampled_from([0, 5, 1_000])


@st.composite
def usage_events(draw: st.DrawFn, now_ms: int, account: str) -> UsageEvent:
    """An event whose fields are in order; its time, meter and id may still be refused."""
    named = draw(st.booleans())
    input_tokens, output_tokens = draw(_token_counts), draw(_token_counts)
    event = usage(
        f"e{draw(st.integers(min_value=0, max_value=8))}",
        customer_id=account.split("/", 1)[1],
        meter=draw(st.sampled_from(METERS)) if named else None,
        event_type=None if named else draw(st.sampled_from(EVENT_TYPES)),
        quantity=draw(st.sampled_from(QUANTITIES)),
        status=draw(st.sampled_from(["succeeded", "succeeded", "failed"])),
        feature=draw(st.sampled_from([None, "chat", "~other"])),
        model=draw(st.sampled_from([None, "m1", "~other"])),
        properties=draw(st.sampled_from([{}, {"a": "1", "\u00e9": "2"}])),
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cached_tokens=input_tokens,
        reasoning_tokens=draw(st.sampled_from([None, 0])),
    )
    occurred_at_ms = now_ms - draw(st.sampled_from(AGES_MS))
    return msgspec.structs.replace(event, occurred_at_us=occurred_at_ms * 1_000 + draw(st.sampled_from([0, 999])))


def respelled(event: UsageEvent) -> UsageEvent:
    """The same content, written another way."""
    quantity = event.quantity if "." in event.quantity else f"{event.quantity}.0"
    properties = dict(reversed(event.properties.items()))
    return msgspec.structs.replace(event, quantity=f"0{quantity}"[-28:], properties=properties)


strangers: st.SearchStrategy[Record] = st.sampled_from(
    [
        Unreadable("no record"),
        Command("call_begin", "test", b"r" * 16, 0, b"", "node-1", b""),
        Genesis("other", 2, 7, b"x" * 32),
        usage("e1", customer_id="mallory"),
    ]
)
"""Records that change nothing."""


@st.composite
def logs(draw: st.DrawFn, max_size: int = 30) -> list[Entry]:
    """What follows the genesis; log time never goes back."""
    entries: list[Entry] = []
    now_ms = T0_MS
    for _ in range(draw(st.integers(min_value=1, max_value=max_size))):
        now_ms += draw(advances)
        account = draw(st.sampled_from(ACCOUNTS))
        kind = draw(st.sampled_from(["event", "event", "event", "again", "tick", "stranger"]))
        if kind == "again" and entries:
            entries.append(again(draw(st.sampled_from(entries)), now_ms))
        elif kind == "tick":
            entries.append(Entry(Tick(0), None, now_ms))
        elif kind == "stranger":
            entries.append(Entry(draw(strangers), account.encode(), now_ms))
        else:
            entries.append(Entry(draw(usage_events(now_ms, account)), account.encode(), now_ms))
    return entries


def again(entry: Entry, log_ms: int) -> Entry:
    return Entry(entry.record, entry.key, log_ms)

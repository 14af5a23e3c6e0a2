"""The rules of a usage event: every reason of the closed list, and every limit at its edge."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.catalog.types import Catalog
from billing.errors import InvalidField, NoGenesis
from billing.facts import CommandRefused, EventCounted, EventRejected, GenesisApplied, GenesisRefused, Reason, Ticked
from billing.metering.rules import check_fields, check_time
from billing.records import Command, Genesis, Record, Tick, Unreadable, UsageEvent
from billing.routing import partition_of
from tests.billing.harness import CATALOG, DAY_MS, GENESIS, KEY, T0_MS, Entry, Folding, usage

COMMAND = Command("call_begin", "test", b"r" * 16, T0_MS, b"", "node-1", b"")
CLOSED = Catalog(**{**{name: getattr(CATALOG, name) for name in CATALOG.__struct_fields__}, "create_customers": False})

REASONS = {
    Reason.UNREADABLE: Entry(Unreadable("no record")),
    Reason.KEY_MISMATCH: Entry(usage(customer_id="bob")),
    Reason.INVALID_FIELD: Entry(usage(quantity="-1")),
    Reason.UNKNOWN_METER: Entry(usage(meter="nonsense")),
    Reason.IN_FUTURE: Entry(usage(occurred_at_ms=T0_MS + DAY_MS)),
    Reason.TOO_OLD: Entry(usage(occurred_at_ms=T0_MS - 70 * DAY_MS)),
    Reason.FAILED_CALL: Entry(usage(status="failed")),
    Reason.METER_NOT_ENABLED: Entry(usage(meter="custom2")),
    Reason.UNSIGNED: Entry(COMMAND),
}
"""A record of its own is enough for each of these."""
ELSEWHERE = {
    Reason.MISROUTED: "test_a_key_on_another_partition_is_misrouted",
    Reason.ID_CONFLICT: "test_an_id_with_other_content_is_a_conflict",
    Reason.UNKNOWN_CUSTOMER: "test_a_closed_catalog_creates_no_customer",
}
ORDERED = {Reason.STALE, Reason.QUARANTINED}
"""Of an operator's orders: tests/billing/test_orders.py."""
LATER = {Reason.CLOSED_PERIOD}
"""Of invoices, which are not there yet."""


def test_every_reason_has_a_case() -> None:
    assert {*REASONS, *ELSEWHERE, *ORDERED, *LATER} == set(Reason)
    assert set(ELSEWHERE.values()) <= set(globals())


@pytest.mark.parametrize("reason", REASONS, ids=str)
def test_a_record_is_refused_for(reason: Reason) -> None:
    folding = Folding()
    facts = folding.append(REASONS[reason])
    (fact,) = facts
    assert isinstance(fact, (EventRejected, CommandRefused))
    assert fact.reason is reason
    assert fact.message
    assert not folding.state.totals.rows
    assert not folding.state.accounts.rows, "what is refused opens no account"


def test_a_key_on_another_partition_is_misrouted() -> None:
    folding = Folding(genesis=Genesis("test", 1, 4, b"k" * 32))
    keys = [f"acme/customer-{n}".encode() for n in range(40)]
    for key in keys:
        fact = folding.outcome(usage(key.decode(), customer_id=key.decode()[5:]), key=key)
        home = partition_of(key, 4)
        if home == 0:
            assert isinstance(fact, EventCounted)
        else:
            assert isinstance(fact, EventRejected)
            assert (fact.reason, fact.account) == (Reason.MISROUTED, key.decode())
            assert f"partition {home}" in fact.message, "it says where the key belongs"
            assert "murmur2" in fact.message, "and what the producer must set"


def test_an_id_with_other_content_is_a_conflict() -> None:
    folding = Folding()
    folding.append(Entry(usage("e1", quantity="1")))
    fact = folding.outcome(usage("e1", quantity="2"))
    assert isinstance(fact, EventRejected)
    assert (fact.reason, fact.field) == (Reason.ID_CONFLICT, "event_id")
    assert "offset 1" in fact.message


def test_a_closed_catalog_creates_no_customer() -> None:
    folding = Folding(CLOSED)
    fact = folding.outcome(usage())
    assert isinstance(fact, EventRejected)
    assert (fact.reason, fact.field) == (Reason.UNKNOWN_CUSTOMER, "customer_id")


@pytest.mark.parametrize(
    "key",
    [None, b"", b"acme", b"ACME/alice", b"acme/\xff", b"acme/" + b"c" * 300],
    ids=["none", "empty", "no customer", "bad org", "not UTF-8", "too long"],
)
def test_a_key_that_names_nobody_is_a_mismatch(key: bytes | None) -> None:
    fact = Folding().outcome(usage(), key=key)
    assert isinstance(fact, EventRejected)
    assert fact.reason is Reason.KEY_MISMATCH


@pytest.mark.parametrize("record", [usage(), Tick(T0_MS), COMMAND, Unreadable("x")], ids=lambda r: type(r).__name__)
def test_a_partition_without_a_genesis_is_nobodys(record: Record) -> None:
    with pytest.raises(NoGenesis, match="meterlog topics create"):
        Folding(genesis=None).append(Entry(record))


def test_the_first_genesis_alone_counts() -> None:
    folding = Folding(genesis=None)
    assert folding.append(Entry(GENESIS, None)) == [GenesisApplied("test", 1, 1, GENESIS.operator_public_key)]
    before = folding.state.partition
    (fact,) = folding.append(Entry(Genesis("other", 2, 7, b"x" * 32), None))
    assert isinstance(fact, GenesisRefused)
    assert "deployment test" in fact.message
    assert folding.state.partition == before


def test_a_tick_with_nothing_due_says_that_it_was_there() -> None:
    assert Folding().append(Entry(Tick(0), None)) == [Ticked(more=False)]


def text(count: int) -> str:
    return "x" * count


TAKEN: dict[str, dict[str, Any]] = {
    "an id of 256 bytes": {"event_id": text(256)},
    "an id of 256 bytes in 128 characters": {"event_id": "\u00e9" * 128},
    "an id of one character": {"event_id": "x"},
    "emoji": {"event_id": "\U0001f600", "feature": "\U0001f600"},
    "the private use area": {"feature": "\ue000"},
    "the first printable code point past the C1 controls": {"feature": "\u00a0"},
    "the epoch": {"occurred_at_us": 0},
    "the last microsecond of 9999": {"occurred_at_us": 253_402_300_800 * 10**6 - 1},
    "a meter of 128 bytes": {"meter": text(128)},
    "a feature of 128 bytes": {"feature": text(128)},
    "a model of 128 bytes": {"model": text(128)},
    "32 tags of 128 bytes": {"tags": (text(128),) * 32},
    "64 properties": {"properties": {f"p{n}": "v" for n in range(64)}},
    "a property of 1,024 bytes": {"properties": {text(128): text(1_024)}},
    "an empty property": {"properties": {"p": ""}},
    "10^15 tokens": {"input_tokens": 10**15, "output_tokens": 10**15},
    "no token": {"input_tokens": 0, "output_tokens": 0},
    "all of the input cached": {"input_tokens": 7, "cached_tokens": 7},
    "all of the output reasoned": {"output_tokens": 7, "reasoning_tokens": 7},
    "nothing cached of nothing told": {"cached_tokens": 0, "reasoning_tokens": 0},
    "a failed one": {"status": "failed"},
    "a quantity of nothing": {"quantity": "0"},
}


@pytest.mark.parametrize("fields", TAKEN.values(), ids=TAKEN.keys())
def test_at_the_edge_is_taken(fields: dict[str, Any]) -> None:
    assert check_fields(msgspec.structs.replace(usage(), **fields)) >= 0


REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "an empty id": ("event_id", {"event_id": ""}),
    "an id of 257 bytes": ("event_id", {"event_id": text(257)}),
    "an id of 257 bytes in 129 characters": ("event_id", {"event_id": "\u00e9" * 128 + "x"}),
    "an id of 10 kB": ("event_id", {"event_id": text(10_000)}),
    "a zero byte": ("event_id", {"event_id": "a\x00b"}),
    "a line feed": ("event_id", {"event_id": "a\n"}),
    "a delete": ("event_id", {"event_id": "\x7f"}),
    "the last C1 control": ("feature", {"feature": "\x9f"}),
    "a line separator": ("feature", {"feature": "a\u2028"}),
    "a paragraph separator": ("feature", {"feature": "a\u2029"}),
    "a byte order mark": ("feature", {"feature": "\ufeffa"}),
    "a non-character": ("feature", {"feature": "\uffff"}),
    "the other non-character": ("feature", {"feature": "\ufffe"}),
    "the first surrogate": ("feature", {"feature": "\ud800"}),
    "the last surrogate": ("feature", {"feature": "\udfff"}),
    "an empty customer": ("customer_id", {"customer_id": ""}),
    "a customer of 257 bytes": ("customer_id", {"customer_id": text(257)}),
    "before the epoch": ("occurred_at", {"occurred_at_us": -1}),
    "the year 10000": ("occurred_at", {"occurred_at_us": 253_402_300_800 * 10**6}),
    "neither meter nor type": ("meter", {"meter": None}),
    "both meter and type": ("meter", {"event_type": "llm.call"}),
    "an empty meter": ("meter", {"meter": ""}),
    "a meter of 129 bytes": ("meter", {"meter": text(129)}),
    "an empty type": ("event_type", {"meter": None, "event_type": ""}),
    "a type of 129 bytes": ("event_type", {"meter": None, "event_type": text(129)}),
    "an empty feature": ("feature", {"feature": ""}),
    "a feature of 129 bytes": ("feature", {"feature": text(129)}),
    "an empty model": ("model", {"model": ""}),
    "a model of 129 bytes": ("model", {"model": text(129)}),
    "an unknown status": ("status", {"status": "pending"}),
    "a status in capitals": ("status", {"status": "SUCCEEDED"}),
    "an empty status": ("status", {"status": ""}),
    "33 tags": ("tags", {"tags": ("t",) * 33}),
    "an empty tag": ("tags", {"tags": ("",)}),
    "a tag of 129 bytes": ("tags", {"tags": (text(129),)}),
    "a tab in a tag": ("tags", {"tags": ("a\tb",)}),
    "65 properties": ("properties", {"properties": {f"p{n}": "v" for n in range(65)}}),
    "an empty name": ("properties", {"properties": {"": "v"}}),
    "a name of 129 bytes": ("properties", {"properties": {text(129): "v"}}),
    "a property of 1,025 bytes": ("properties.p", {"properties": {"p": text(1_025)}}),
    "a control in a property": ("properties.p", {"properties": {"p": "\x1b[0m"}}),
    "negative tokens": ("input_tokens", {"input_tokens": -1}),
    "10^15 + 1 tokens": ("output_tokens", {"output_tokens": 10**15 + 1}),
    "negative cached tokens": ("cached_tokens", {"cached_tokens": -1}),
    "too many reasoning tokens": ("reasoning_tokens", {"output_tokens": 10**15, "reasoning_tokens": 10**15 + 1}),
    "more cached than there were": ("cached_tokens", {"input_tokens": 7, "cached_tokens": 8}),
    "cached of nothing told": ("cached_tokens", {"cached_tokens": 1}),
    "more reasoned than there were": ("reasoning_tokens", {"output_tokens": 7, "reasoning_tokens": 8}),
    "a negative quantity": ("quantity", {"quantity": "-1"}),
    "no number": ("quantity", {"quantity": "NaN"}),
    "a quantity of 40 digits": ("quantity", {"quantity": "1" * 40}),
}


@pytest.mark.parametrize(("field", "fields"), REFUSED.values(), ids=REFUSED.keys())
def test_past_the_edge_is_refused_by_name(field: str, fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidField) as refused:
        check_fields(msgspec.structs.replace(usage(), **fields))
    assert refused.value.field == field
    assert refused.value.message.isascii(), "messages are facts: no Unicode table decides how they read"


@pytest.mark.parametrize(("field", "fields"), REFUSED.values(), ids=REFUSED.keys())
def test_the_fold_counts_nothing_of_it(field: str, fields: dict[str, Any]) -> None:
    event = msgspec.structs.replace(usage(), **fields)
    folding = Folding()
    fact = folding.append(Entry(event, b"acme/" + event.customer_id.encode("utf-8", "replace")))[-1]
    assert isinstance(fact, EventRejected)
    assert fact.reason in (Reason.INVALID_FIELD, Reason.KEY_MISMATCH)
    assert not folding.state.seen.rows, "its id stays free for the mended event"


NOW_MS = T0_MS + 12_345


@pytest.mark.parametrize(
    ("occurred_at_us", "reason"),
    [
        pytest.param(NOW_MS * 1_000, None, id="now"),
        pytest.param((NOW_MS + 300_000) * 1_000 + 999, None, id="five minutes ahead"),
        pytest.param((NOW_MS + 300_001) * 1_000, Reason.IN_FUTURE, id="a millisecond more"),
        pytest.param((NOW_MS - 34 * DAY_MS) * 1_000, None, id="34 days back"),
        pytest.param((NOW_MS - 34 * DAY_MS) * 1_000 - 1, Reason.TOO_OLD, id="a microsecond more"),
    ],
)
def test_both_edges_of_time(occurred_at_us: int, reason: Reason | None) -> None:
    refusal = check_time(occurred_at_us, NOW_MS)
    assert (refusal and refusal[0]) == reason
    fact = Folding().outcome(UsageEvent("e1", occurred_at_us, "alice", meter="calls"), NOW_MS)
    assert isinstance(fact, EventRejected if reason else EventCounted)


FIELD_VALUES = st.fixed_dictionaries(
    {},
    optional={
        "event_id": st.text(max_size=300),
        "customer_id": st.text(max_size=10),
        "occurred_at_us": st.integers(min_value=-(2**63), max_value=2**63 - 1),
        "meter": st.none() | st.text(max_size=10) | st.sampled_from(sorted(CATALOG.meters)),
        "event_type": st.none() | st.text(max_size=10) | st.sampled_from(sorted(CATALOG.meters_of)),
        "quantity": st.text(max_size=30) | st.decimals(allow_nan=True).map(str),
        "status": st.text(max_size=10) | st.just("failed"),
        "feature": st.none() | st.text(max_size=10),
        "model": st.none() | st.text(max_size=10),
        "tags": st.lists(st.text(max_size=5), max_size=40).map(tuple),
        "properties": st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=5),
        **{
            field: st.none() | st.integers(min_value=-(2**63), max_value=2**63 - 1)
            for field in ("input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens")
        },
    },
)


@given(FIELD_VALUES, st.none() | st.binary(max_size=40) | st.just(KEY))
def test_whatever_a_schema_lets_through_has_an_outcome(fields: dict[str, Any], key: bytes | None) -> None:
    folding = Folding()
    fact = folding.outcome(msgspec.structs.replace(usage(), **fields), key=key)
    assert isinstance(fact, (EventCounted, EventRejected))

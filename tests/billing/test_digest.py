"""Digests: what is under a total, and whether a repeat says the same."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.metering.digest import DIGEST_MODULUS, entry_digest, payload_digest
from billing.records import UsageEvent
from tests.billing.harness import usage
from tests.billing.logs import respelled

FULL = UsageEvent(
    event_id="evt-1",
    occurred_at_us=1_772_323_200_000_001,
    customer_id="\u00e9l\u00e8ve",
    meter=None,
    event_type="llm.call",
    quantity="2.50",
    status="succeeded",
    feature="chat",
    model="m1",
    tags=("a", "b"),
    properties={"b": "2", "\u00e9": "3", "a": "1"},
    input_tokens=100,
    output_tokens=20,
    cached_tokens=60,
    reasoning_tokens=5,
)


def test_an_entrys_digest_is_what_sql_computes() -> None:
    """`reinterpretAsUInt128(substring(SHA256('5:evt-15:calls3:2.516:1772323200000001'), 1, 16))`"""
    spelled = b"5:evt-15:calls3:2.516:1772323200000001"
    expected = int.from_bytes(hashlib.sha256(spelled).digest()[:16], "little")
    assert entry_digest("evt-1", "calls", "2.5", 1_772_323_200_000_001) == expected
    assert 0 <= expected < DIGEST_MODULUS == 2**128


def test_lengths_are_in_bytes() -> None:
    spelled = "7:\u00e9l\u00e8ve5:calls1:11:0".encode()
    assert entry_digest("\u00e9l\u00e8ve", "calls", "1", 0) == int.from_bytes(
        hashlib.sha256(spelled).digest()[:16], "little"
    )


def test_fields_cannot_run_into_each_other() -> None:
    digests = {
        entry_digest("e1", "calls", "1", 11), entry_digest("e", "1calls", "1", 11), entry_digest("e1", "call", "s1", 11),
        entry_digest("e1", "calls", "11", 1), entry_digest("", "e1calls", "1", 11),
    }  # fmt: skip
    assert len(digests) == 5


def test_the_payload_digest_is_pinned() -> None:
    """A changed digest makes a conflict of every repeat on the log: it is a new behaviour version, and nothing less."""
    assert payload_digest(FULL).hex() == "5f43e2d772bc22d0002f4f3bb12b46b6"


OTHERWISE: dict[str, Any] = {
    "event_id": "evt-2",
    "occurred_at_us": 1_772_323_200_000_002,
    "customer_id": "bob",
    "meter": "calls",
    "event_type": None,
    "quantity": "2.51",
    "status": "failed",
    "feature": None,
    "model": "m2",
    "tags": ("b", "a"),
    "properties": {"b": "2", "\u00e9": "3", "a": "2"},
    "input_tokens": None,
    "output_tokens": 21,
    "cached_tokens": 0,
    "reasoning_tokens": None,
}


def test_every_field_is_in_the_payload_digest() -> None:
    assert set(OTHERWISE) == set(FULL.__struct_fields__)
    digests = {payload_digest(msgspec.structs.replace(FULL, **{field: value})) for field, value in OTHERWISE.items()}
    assert len({*digests, payload_digest(FULL)}) == 1 + len(OTHERWISE)


@pytest.mark.parametrize("quantity", ["2.5", "2.50", "2.500000000", "02.5", "0002.50"])
def test_a_quantity_is_compared_as_a_number(quantity: str) -> None:
    assert payload_digest(msgspec.structs.replace(FULL, quantity=quantity)) == payload_digest(FULL)


@given(st.permutations(sorted(FULL.properties)))
def test_the_order_of_properties_says_nothing(names: list[str]) -> None:
    ordered = {name: FULL.properties[name] for name in names}
    assert payload_digest(msgspec.structs.replace(FULL, properties=ordered)) == payload_digest(FULL)


@given(st.from_regex(r"[0-9]{1,17}(\.[0-9]{1,8})?", fullmatch=True))
def test_another_spelling_is_the_same_payload(quantity: str) -> None:
    event = usage(quantity=quantity, properties={"a": "1", "b": "2"})
    assert payload_digest(respelled(event)) == payload_digest(event)

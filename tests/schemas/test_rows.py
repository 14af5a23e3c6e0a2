"""The fold's rows as bytes: the order of keys is the order of rows, and every row comes back as it was."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.catalog.types import PlanRef
from billing.state import (
    Account,
    Counter,
    Late,
    LateKey,
    MemoryFamily,
    PairsKey,
    Quarantine,
    Seen,
    SeenKey,
    StripeHour,
    StripeHourKey,
    Total,
    TotalKey,
)
from schemas import rows
from schemas.rows import (
    ACCOUNTS,
    LATE,
    PAIRS,
    POSITION_KEY,
    QUARANTINES,
    SEEN,
    STRIPE_HOURS,
    TOTALS,
    Parked,
    RowCodec,
    decode_position,
    encode_position,
)
from tests.billing.harness import Entry, Folding, rows_of
from tests.billing.logs import logs
from tests.schemas.samples import DIGEST, LATE_EVENT, ORDERED, PARTITION, ROWS, golden

CODECS: dict[str, RowCodec[Any, Any]] = {
    name: codec for name, codec in vars(rows).items() if isinstance(codec, RowCodec)
}
PINNED = {
    "ACCOUNTS": "8ca2da573933571d123c48db0ef7c94d9ae5ac68e74b67b0870a7fdcfd9159c3",
    "SEEN": "b66945e7894833937a809c3921aa86a360a24952bfb8f1546af7097fbc7eded1",
    "TOTALS": "a13011cd2483e9e05ed83dabc0b6f8e6346c83eb2e94afe9c6c03bc7276f25cf",
    "PAIRS": "0e47cf455bc294edc4ba7a0b0e82278d16c00671e86058475f5ea15c3cc58152",
    "STRIPE_HOURS": "6e166e90f78c55d37244b69646823f0fde3853ea4136922f43700685ebd52388",
    "LATE": "febf1aaf332d35f891aae476f08cbe882584c91c17b8452e8e010ef7268861fa",
    "QUARANTINES": "c3366b2e9620b1132a689c3e283353af758466c7057bf65daf4aeb4b6aabecfe",
    "position.3": "f733c7597362c0cafded990f8160f4a361485ac81391125c6f5bb34fa483a57c",
    "position.2": "33e7533b84b2f2a55642bbe10541137d142f9963ecd1551505efb9b70e899de3",
    "position": "18bc0fdfc6bff478ac508c116cc011b96184b4dcf2dc4c25c490ca71a32d1ba4",
}
"""SHA-256 of each file in golden/: a key, its length before it, and its row."""

# What check_fields lets through holds no control characters: the zero byte ends a text in a key.
names = st.text(st.characters(min_codepoint=0x20, exclude_categories=["Cs"]), max_size=8)
numbers = st.integers(min_value=0, max_value=2**63) | st.integers(min_value=0, max_value=300)
digests = st.binary(min_size=16, max_size=16)
accounts = st.sampled_from(
    ["acme/a", "acme/ab", "acme/a b", "acme-2/a", "acme/\u00e9", "acme/\uffee", "acme/\U0001f600"]
)
accounts |= st.tuples(names, names).map("/".join)
sums = st.integers(min_value=0, max_value=10**38)

KEYS: dict[str, st.SearchStrategy[Any]] = {
    "ACCOUNTS": accounts,
    "SEEN": st.builds(SeenKey, accounts, names),
    "LATE": st.builds(LateKey, accounts, names),
    "TOTALS": st.builds(TotalKey, numbers, accounts, numbers, names, names, names, numbers),
    "PAIRS": st.builds(PairsKey, numbers, accounts),
    "STRIPE_HOURS": st.builds(StripeHourKey, numbers, accounts, names, names),
    "QUARANTINES": accounts,
}
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "ACCOUNTS": st.builds(
        Account,
        st.builds(PlanRef, names, numbers),
        numbers,
        names,
        st.dictionaries(names, st.builds(Counter, numbers, sums), max_size=4),
        numbers,
    ),
    "LATE": st.builds(Late, numbers, digests, st.none() | st.just(LATE_EVENT), st.booleans()),
    "SEEN": st.builds(Seen, numbers, numbers, digests),
    "TOTALS": st.builds(Total, sums, numbers, st.integers(min_value=0, max_value=2**128 - 1), numbers),
    "PAIRS": st.frozensets(st.tuples(names, names), max_size=5),
    "STRIPE_HOURS": st.builds(StripeHour, sums, numbers),
    "QUARANTINES": st.builds(Quarantine, numbers, st.booleans()),
}
families = pytest.mark.parametrize("name", CODECS)
ordered_by_number = pytest.mark.parametrize("name", ["TOTALS", "PAIRS", "STRIPE_HOURS"])


def pinned(key: bytes, row: bytes) -> bytes:
    return len(key).to_bytes(2, "big") + key + row


@families
def test_rows_lie_as_they_always_did(name: str) -> None:
    codec, (key, row) = CODECS[name], ROWS[name]
    data = golden(f"row.{name.lower()}")
    assert hashlib.sha256(data).hexdigest() == PINNED[name], "golden bytes are never changed"
    assert pinned(codec.encode_key(key), codec.encode_row(row)) == data
    size = 2 + int.from_bytes(data[:2], "big")
    assert (codec.decode_key(data[2:size]), codec.decode_row(data[size:])) == (key, row)


def test_the_position_lies_as_it_always_did() -> None:
    data = golden("row.position.3")
    assert hashlib.sha256(data).hexdigest() == PINNED["position.3"], "golden bytes are never changed"
    row = msgspec.structs.replace(ORDERED, snapshot_month_s=1_772_323_200, snapshot_cursor="aacme/alice")
    times = (1_772_323_200_000, DIGEST, 1_772_323_200_001)
    parked = Parked(2**40 + 3, "a rule raised")
    encoded = encode_position(2**40 + 1, 2**40, *times, row, parked)
    assert pinned(POSITION_KEY, encoded) == data
    found = decode_position(encoded)
    assert (found.next_offset, found.last_offset) == (2**40 + 1, 2**40)
    assert (found.last_append_ms, found.last_digest, found.log_ms) == times
    assert (found.partition_row, found.parked) == (row, parked)


def test_a_position_of_before_there_were_snapshots_has_none() -> None:
    data = golden("row.position.2")
    assert hashlib.sha256(data).hexdigest() == PINNED["position.2"], "golden bytes are never changed"
    found = decode_position(data[2 + len(POSITION_KEY) :])
    times = (1_772_323_200_000, DIGEST, 1_772_323_200_001)
    assert found == decode_position(
        encode_position(2**40 + 1, 2**40, *times, ORDERED, Parked(2**40 + 3, "a rule raised"))
    )


def test_a_position_of_before_there_were_orders_has_none() -> None:
    data = golden("row.position")
    assert hashlib.sha256(data).hexdigest() == PINNED["position"], "golden bytes are never changed"
    found = decode_position(data[2 + len(POSITION_KEY) :])
    now = encode_position(2**40 + 1, 2**40, 1_772_323_200_000, b"", 1_772_323_200_001, PARTITION)
    assert found == decode_position(now)


def test_every_family_is_tested() -> None:
    assert (
        set(CODECS) == set(ROWS) == set(KEYS) == set(VALUES) == set(PINNED) - {"position", "position.2", "position.3"}
    )


@families
@given(st.data())
def test_rows_come_back_as_they_were(name: str, data: st.DataObject) -> None:
    codec = CODECS[name]
    key, row = data.draw(KEYS[name]), data.draw(VALUES[name])
    assert codec.decode_key(codec.encode_key(key)) == key
    assert codec.decode_row(codec.encode_row(row)) == row


@families
@given(st.data())
def test_equal_rows_are_equal_bytes(name: str, data: st.DataObject) -> None:
    """A set has no order of its own: were it written in the order of a hash, two workers would write two changelogs."""
    codec, row = CODECS[name], data.draw(VALUES[name])
    assert codec.encode_row(codec.decode_row(codec.encode_row(row))) == codec.encode_row(row)


@families
@given(st.data())
def test_different_keys_are_different_bytes(name: str, data: st.DataObject) -> None:
    codec = CODECS[name]
    first, second = data.draw(KEYS[name]), data.draw(KEYS[name])
    assert (codec.encode_key(first) == codec.encode_key(second)) == (first == second)


def test_families_of_one_table_never_meet() -> None:
    prefixes = [codec.prefix for codec in CODECS.values()]
    assert len(set(prefixes)) == len(prefixes)
    assert all(len(prefix) == 1 and prefix.isalpha() for prefix in prefixes)
    assert min(prefixes) > POSITION_KEY, "the position row lies before all others, and in none of them"


@ordered_by_number
@given(data=st.data())
def test_the_order_of_keys_is_the_order_of_rows(name: str, data: st.DataObject) -> None:
    """By the leading number, then part by part; text by its UTF-8 bytes."""
    codec = CODECS[name]
    keys = data.draw(st.lists(KEYS[name], min_size=2, max_size=6, unique=True))
    in_order = sorted(keys, key=lambda key: tuple(p.encode() if isinstance(p, str) else p for p in key))
    assert sorted(keys, key=codec.encode_key) == in_order


@ordered_by_number
@given(data=st.data())
def test_a_bound_parts_the_keys_below_from_the_others(name: str, data: st.DataObject) -> None:
    codec, key = CODECS[name], data.draw(KEYS[name])
    number = data.draw(numbers)
    assert (codec.encode_key(key) < codec.bound(number)) == (key[0] < number)
    assert codec.prefix < codec.bound(number) < bytes([codec.prefix[0] + 1])


@ordered_by_number
@given(data=st.data())
def test_one_key_parts_an_accounts_rows_from_those_behind(name: str, data: st.DataObject) -> None:
    codec, key, other = CODECS[name], data.draw(KEYS[name]), data.draw(KEYS[name])
    behind = codec.behind(*key[:2])
    assert codec.encode_key(key) < behind
    if other[:2] != key[:2]:
        assert (codec.encode_key(other) < behind) == (codec.encode_key(other) < codec.encode_key(key))


def test_a_bound_below_zero_is_zero() -> None:
    assert TOTALS.bound(-1) == TOTALS.bound(0)


@ordered_by_number
@given(data=st.data())
def test_the_state_in_memory_has_the_same_order(name: str, data: st.DataObject) -> None:
    codec = CODECS[name]
    found = data.draw(st.dictionaries(KEYS[name], st.just("row"), max_size=6))
    family: MemoryFamily[Any, str] = MemoryFamily()
    for key, row in found.items():
        family.put(key, row)
    bound, limit = data.draw(numbers), data.draw(st.integers(min_value=0, max_value=7))
    encoded = sorted((codec.encode_key(key), key) for key in found)
    expected = [key for data, key in encoded if data < codec.bound(bound)][:limit]
    assert [key for key, _ in family.below(bound, limit)] == expected


@given(logs(), st.data())
def test_a_fold_goes_on_from_its_rows_as_if_nothing_had_been(log: list[Entry], data: st.DataObject) -> None:
    cut = data.draw(st.integers(min_value=0, max_value=len(log)))
    whole, before = Folding().extend(log), Folding().extend(log[:cut])
    for name, family in (
        ("accounts", ACCOUNTS), ("seen", SEEN), ("totals", TOTALS), ("pairs", PAIRS), ("stripe_hours", STRIPE_HOURS),
        ("quarantines", QUARANTINES), ("late", LATE),
    ):  # fmt: skip
        stored = getattr(before.state, name).rows
        codec: RowCodec[Any, Any] = family
        encoded = [(codec.encode_key(key), codec.encode_row(row)) for key, row in stored.items()]
        stored.clear()
        stored.update((codec.decode_key(key), codec.decode_row(row)) for key, row in encoded)
    after = Folding(state=before.state, offset=before.next_offset).extend(log[cut:])
    assert before.ledger + after.ledger == whole.ledger
    assert rows_of(after.state) == rows_of(whole.state)

"""Totals on their topic: absolute, exact, and of two values of a row the later one is known."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from billing.quantities import nano_of
from billing.records import Position
from schemas.totals import (
    HourTotal,
    StripeHourTotal,
    decode_total,
    encode_stripe_hour,
    encode_total,
    version_number,
)
from tests.schemas.samples import ROWS, golden

VERSION = Position(7, 3, 2**40).ordinal
TOTAL_KEY, TOTAL = ROWS["TOTALS"][0], replace(ROWS["TOTALS"][1], version_offset=VERSION)
HOUR_KEY, HOUR = ROWS["STRIPE_HOURS"][0], replace(ROWS["STRIPE_HOURS"][1], version_offset=VERSION)
PINNED = {
    "total.hour": "38489903507d9ec3ad2162ba75ad0efdc7abeea78f6e59995f1b8df965035393",
    "total.stripe_hour": "8279963104fe5b4affbc32f641b5554f22b36e90bace000ec590c0ff44f822f4",
}
"""SHA-256 of each file in golden/."""


@pytest.mark.parametrize("name", PINNED)
def test_totals_are_written_as_they_always_were(name: str) -> None:
    data = golden(name)
    assert hashlib.sha256(data).hexdigest() == PINNED[name], "golden bytes are never changed"
    stripe = name == "total.stripe_hour"
    assert data == (encode_stripe_hour(3, HOUR_KEY, HOUR) if stripe else encode_total(3, TOTAL_KEY, TOTAL))


def test_an_hour_total_says_whose_when_and_how_much() -> None:
    assert decode_total(encode_total(3, TOTAL_KEY, TOTAL)) == HourTotal(
        version=1,
        incarnation=7,
        partition=3,
        version_offset=2**40,
        account="acme/alice",
        billing_start_s=1_772_323_200,
        meter="calls",
        feature="chat",
        model="",
        hour=492_312,
        booking_day=20_513,
        quantity="1" + "0" * 21,
        event_count=2,
        digest=b"\xff" * 16,
    )


def test_a_stripe_hour_says_whom_stripe_knows_and_how_much() -> None:
    assert decode_total(encode_stripe_hour(3, HOUR_KEY, HOUR)) == StripeHourTotal(
        version=1,
        incarnation=7,
        partition=3,
        version_offset=2**40,
        account="acme/alice",
        stripe_customer="cus_1",
        stripe_event_name="calls",
        hour=492_312,
        quantity="1" + "0" * 21,
    )


@given(st.integers(min_value=0, max_value=10**38))
def test_a_total_of_any_size_is_exact(nano: int) -> None:
    found = decode_total(encode_total(0, TOTAL_KEY, type(TOTAL)(nano, 1, 0, 1)))
    assert nano_of(found.quantity) == nano


versions = st.tuples(
    st.integers(min_value=0, max_value=2**16 - 1), st.integers(min_value=0, max_value=2**48 - 1)
)  # incarnation, offset


@given(versions, versions)
def test_a_versions_number_orders_like_the_version(first: tuple[int, int], second: tuple[int, int]) -> None:
    assert (version_number(*first) < version_number(*second)) == (first < second)
    assert 0 <= version_number(*first) < 2**64


@pytest.mark.parametrize("version", [(-1, 0), (2**16, 0), (0, -1), (0, 2**48)])
def test_a_version_that_passes_its_bits_is_refused(version: tuple[int, int]) -> None:
    with pytest.raises(AssertionError, match="passes"):
        version_number(*version)

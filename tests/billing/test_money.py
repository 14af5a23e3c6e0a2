"""Money: exact until it is rounded, once."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal, localcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.errors import InvalidField
from billing.money import ATTO, Money

attos = st.integers(min_value=-(10**38) + 1, max_value=10**38 - 1)


@pytest.mark.parametrize(
    ("text", "atto"),
    [
        pytest.param("0", 0, id="nothing"),
        pytest.param("2000.00", 2000 * ATTO, id="a fee"),
        pytest.param("-0.5", -ATTO // 2, id="a credit"),
        pytest.param("0.000000000000000001", 1, id="eighteen decimals"),
        pytest.param("9" * 20 + "." + "9" * 18, 10**38 - 1, id="the largest a column of 38 digits holds"),
    ],
)
def test_a_plain_decimal_is_taken_exactly(text: str, atto: int) -> None:
    assert Money.parse(text, "USD") == Money(atto, "USD")


@pytest.mark.parametrize(
    "text",
    [
        "", "NaN", "sNaN", "Infinity", "-Infinity", "1e3", "1e999999999", "+1", "1_000", " 1", "1\n", ".5", "5.", "\u0661",
        pytest.param("0.0000000000000000001", id="nineteen decimals"),
        pytest.param("1" * 21, id="twenty-one whole digits"),
    ],
)  # fmt: skip
def test_anything_else_is_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidField) as refused:
        Money.parse(text, "USD")
    assert refused.value.field == "amount"


@given(attos)
def test_plain_is_read_back_as_it_was(atto: int) -> None:
    money = Money(atto, "USD")
    assert Money.parse(money.plain(), "USD") == money
    assert "." not in money.plain() or not money.plain().endswith(("0", "."))


@given(attos, attos)
def test_what_is_added_can_be_taken_away(first: int, second: int) -> None:
    total = Money(first, "USD") + Money(second, "USD")
    assert total - Money(second, "USD") == Money(first, "USD")


@given(attos, st.integers(min_value=0, max_value=50))
def test_times_is_a_sum(atto: int, factor: int) -> None:
    money = Money(0, "USD")
    for _ in range(factor):
        money += Money(atto, "USD")
    assert Money(atto, "USD").times(factor) == money


@pytest.mark.parametrize(
    ("text", "decimals", "rounded"),
    [
        pytest.param("0.005", 2, "0.00", id="half goes to the even cent below"),
        pytest.param("0.015", 2, "0.02", id="half goes to the even cent above"),
        pytest.param("-0.025", 2, "-0.02", id="a credit rounds like a debit"),
        pytest.param("0.005000000000000001", 2, "0.01", id="the last decimal decides"),
        pytest.param("1.5", 0, "2", id="a currency without cents"),
    ],
)
def test_a_line_is_rounded_half_even(text: str, decimals: int, rounded: str) -> None:
    assert str(Money.parse(text, "USD").rounded(decimals)) == rounded


@given(attos, st.integers(min_value=0, max_value=18))
def test_rounding_happens_once(atto: int, decimals: int) -> None:
    with localcontext(prec=100):
        expected = (Decimal(atto) / ATTO).quantize(Decimal(10) ** -decimals, ROUND_HALF_EVEN)
    assert Money(atto, "USD").rounded(decimals) == expected


def test_currencies_never_mix() -> None:
    with pytest.raises(AssertionError, match="cannot add EUR to USD"):
        Money(1, "USD") + Money(1, "EUR")
    with pytest.raises(AssertionError, match="cannot take EUR from USD"):
        Money(1, "USD") - Money(1, "EUR")

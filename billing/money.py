"""Money: an integer of atto-units (10^-18) of a currency. Floats never enter; rounding happens once, at an invoice line."""

import re
from decimal import ROUND_HALF_EVEN, Context, Decimal, Inexact, InvalidOperation

import msgspec

from billing.errors import InvalidField

__all__ = ["ATTO", "Money"]

ATTO = 10**18

# What a column of 38 digits with 18 decimals holds. A pattern, since `Decimal` also reads NaN, Infinity and 1e999999999.
_DECIMAL = re.compile(r"(-?)([0-9]{1,20})(?:\.([0-9]{1,18}))?", re.ASCII)
_EXACT = Context(prec=60, traps=[Inexact, InvalidOperation])
_ROUNDED = Context(prec=60, rounding=ROUND_HALF_EVEN, traps=[InvalidOperation])


class Money(msgspec.Struct, frozen=True):
    """An amount in one currency. Two currencies never add."""

    atto: int
    currency: str
    """ISO 4217, upper case."""

    @classmethod
    def parse(cls, text: str, currency: str) -> "Money":
        """A plain decimal string as money. Raises InvalidField past 20 whole digits or 18 decimals."""
        match = _DECIMAL.fullmatch(text)
        if match is None:
            message = f"{text[:48]!a} is not a decimal amount of at most 20 whole digits and 18 decimals"
            raise InvalidField("amount", message)
        sign, whole, decimals = match.groups()
        atto = int(whole) * ATTO + (int(decimals.ljust(18, "0")) if decimals else 0)
        return cls(-atto if sign else atto, currency)

    def __add__(self, other: "Money") -> "Money":
        assert self.currency == other.currency, f"cannot add {other.currency} to {self.currency}"
        return Money(self.atto + other.atto, self.currency)

    def __sub__(self, other: "Money") -> "Money":
        assert self.currency == other.currency, f"cannot take {other.currency} from {self.currency}"
        return Money(self.atto - other.atto, self.currency)

    def times(self, factor: int) -> "Money":
        """This amount taken `factor` times, exactly."""
        return Money(self.atto * factor, self.currency)

    def plain(self) -> str:
        """The exact amount as a plain decimal string, without trailing zeros."""
        whole, decimals = divmod(abs(self.atto), ATTO)
        sign = "-" if self.atto < 0 else ""
        return f"{sign}{whole}" if not decimals else f"{sign}{whole}.{decimals:018d}".rstrip("0")

    def rounded(self, decimals: int) -> Decimal:
        """The amount rounded half-even to `decimals` places: for an invoice line, once."""
        exact = _EXACT.scaleb(Decimal(self.atto), -18)
        return _ROUNDED.quantize(exact, _EXACT.scaleb(Decimal(1), -decimals))

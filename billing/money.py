"""Money: an integer of atto-units (10^-18) of a currency. Floats never enter; rounding happens once, at an invoice line."""

from decimal import ROUND_HALF_EVEN, Context, Decimal, Inexact, InvalidOperation

import msgspec

from billing.errors import InvalidField

__all__ = ["ATTO", "Money"]

ATTO = 10**18

_EXACT = Context(prec=60, traps=[Inexact, InvalidOperation])
_ROUNDED = Context(prec=60, rounding=ROUND_HALF_EVEN, traps=[InvalidOperation])


class Money(msgspec.Struct, frozen=True):
    """An amount in one currency. Two currencies never add."""

    atto: int
    currency: str
    """ISO 4217, upper case."""

    @classmethod
    def parse(cls, text: str, currency: str) -> "Money":
        """A decimal string as money. Raises InvalidField when it does not fit in 18 decimals."""
        try:
            value = _EXACT.create_decimal(text)
            atto = _EXACT.to_integral_exact(_EXACT.multiply(value, Decimal(ATTO)))
        except (Inexact, InvalidOperation) as exc:
            message = f"{text[:48]!r} is not a decimal amount with at most 18 decimals"
            raise InvalidField("amount", message) from exc
        return cls(int(atto), currency)

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
        """The exact amount as a plain decimal string."""
        text = format(_EXACT.divide(Decimal(self.atto), Decimal(ATTO)), "f")
        return text.rstrip("0").rstrip(".") if "." in text else text

    def rounded(self, decimals: int) -> Decimal:
        """The amount rounded half-even to `decimals` places: for an invoice line, once."""
        quantum = Decimal(1).scaleb(-decimals)
        return _ROUNDED.quantize(_ROUNDED.divide(Decimal(self.atto), Decimal(ATTO)), quantum)

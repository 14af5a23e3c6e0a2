"""Quantities: how much of a meter was used. Exact, in nano-units, never a float.

On every wire a quantity is a plain decimal string (`"1200"`, `"0.5"`); inside the fold it is an integer of nano-units.
"""

import re

from billing.errors import InvalidField

__all__ = ["NANO", "nano_of", "parse_quantity", "plain"]

NANO = 10**9
"""Nano-units in one unit: quantities have at most 9 decimals."""

_WHOLE_DIGITS_MAX = 18
# 18 whole digits and 9 decimals leave 11 digits of a 38-digit decimal column for sums: no total can overflow.
_DECIMAL = re.compile(r"([0-9]{1,18})(?:\.([0-9]{1,9}))?", re.ASCII)


def parse_quantity(text: str) -> int:
    """A plain decimal string as nano-units.

    Raises InvalidField for signs, exponents, NaN, more than 18 whole digits or more than 9 decimals.
    """
    if len(text) <= _WHOLE_DIGITS_MAX and text.isascii() and text.isdigit():
        return int(text) * NANO
    match = _DECIMAL.fullmatch(text)
    if match is None:
        raise InvalidField("quantity", _why_not(text))
    whole, decimals = match.groups()
    return int(whole) * NANO + (int(decimals.ljust(9, "0")) if decimals else 0)


def plain(nano: int) -> str:
    """Nano-units as a plain decimal string without trailing zeros; the one spelling that digests are made over."""
    whole, decimals = divmod(nano, NANO)
    return str(whole) if not decimals else f"{whole}.{decimals:09d}".rstrip("0")


def nano_of(text: str) -> int:
    """What `plain` wrote, read back. Of any size: a sum may pass the limit of a single event's quantity."""
    if text.isdigit():
        return int(text) * NANO
    whole, _, decimals = text.partition(".")
    return int(whole) * NANO + (int(decimals.ljust(9, "0")) if decimals else 0)


def _why_not(text: str) -> str:
    shown = text if len(text) <= 48 else f"{text[:45]}..."
    if text.startswith("-"):
        return f"{shown!a} is negative; send a quantity of 0 or more"
    return (
        f"{shown!a} is not a plain decimal number of at most {_WHOLE_DIGITS_MAX} whole digits and 9 decimals; "
        "send digits with an optional decimal point, such as 1200 or 0.5"
    )

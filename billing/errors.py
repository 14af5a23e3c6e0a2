"""What the pure rules refuse.

BillingError
└── InvalidField    a value breaks a rule that the sender can mend; names the field

Messages become facts, so they too are functions of the record alone. What they quote is quoted with `!a`: `!r` asks
Unicode's tables what is printable, and those differ between Python's versions.
"""

__all__ = ["BillingError", "InvalidField"]


class BillingError(Exception):
    """The base of everything that billing raises on purpose."""


class InvalidField(BillingError):
    """A field of a record breaks a rule. The message says what was wrong and what to do."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message

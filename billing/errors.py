"""What the pure rules refuse, and why a fold does not go on.

BillingError
├── InvalidField        a value breaks a rule that the sender can mend; names the field
├── Stands              a record must not be folded: what precedes it counts, and the partition waits
│   ├── RecordCrashed   a rule raised on it; waits for an operator's order
│   ├── TimeJumped      it would carry log time too far; waits for an operator's order
│   └── UnknownBehaviour the log asks for rules that this code does not have; waits for an upgrade
├── NotHonoured         an order does not let this record through: it is not signed, or names another
└── CannotFold          not the record's fault: the process ends, and its successor tries again
    ├── NoGenesis       the partition belongs to nobody yet
    ├── StoreFailed     rows could not be read
    └── RowsContradict  the rows already hold what the log says next

Messages of InvalidField become facts, so they too are functions of the record alone. What they quote is quoted with `!a`:
`!r` asks Unicode's tables what is printable, and those differ between Python's versions.
"""

__all__ = [
    "BillingError",
    "CannotFold",
    "InvalidField",
    "NoGenesis",
    "NotHonoured",
    "RecordCrashed",
    "RowsContradict",
    "Stands",
    "StoreFailed",
    "TimeJumped",
    "UnknownBehaviour",
]

_QUOTED_MAX = 200


class BillingError(Exception):
    """The base of everything that billing raises on purpose."""


class InvalidField(BillingError):
    """A field of a record breaks a rule. The message says what was wrong and what to do."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


class Stands(BillingError):
    """The record was not folded, and nothing behind it may be. The message is for people; it is no fact."""


class RecordCrashed(Stands):
    """A rule raised on the record; the cause is chained."""

    def __init__(self, cause: Exception, *, half_applied: bool) -> None:
        """`half_applied`: the state holds part of what the record does, and must be brought back before it is used."""
        super().__init__(f"{type(cause).__name__}: {cause}"[:_QUOTED_MAX])
        self.half_applied = half_applied


class TimeJumped(Stands):
    """The record's append time lies too far beyond the partition's log time to be believed without being asked."""


class UnknownBehaviour(Stands):
    """The partition was switched to a behaviour version that is not in this code."""


class NotHonoured(BillingError):
    """What is said to have let a record through does not: badly signed, another deployment's, or of another record."""


class CannotFold(BillingError):
    """The worker cannot fold, whatever the record is."""


class NoGenesis(CannotFold):
    """A partition does not begin with a genesis record: its topic was not made by `meterlog topics create`."""


class StoreFailed(CannotFold):
    """Rows could not be read from where they lie."""


class RowsContradict(CannotFold):
    """A row already reflects the record, or one behind it: rows and log do not belong together."""

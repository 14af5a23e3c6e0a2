"""Why a worker does not start, or stops.

StreamsError
├── RefusedToStart        somebody mends something, or the broker comes back; nothing was touched
│   ├── BrokerUnreachable
│   ├── TopicsUnfit
│   └── DirectoryInUse
├── LocalFault            this worker's disk; the process ends (exit 70), the next one goes on when it can
│   ├── TableDamaged
│   └── NoRoom
└── Contradiction         log, state and fold do not add up; the process ends before it can commit (exit 70)
    ├── RecordsLost
    ├── PositionUnfit
    ├── StateForeign
    ├── TransactionHangs
    └── EpochUnfit
"""

__all__ = [
    "BrokerUnreachable",
    "Contradiction",
    "DirectoryInUse",
    "EpochUnfit",
    "LocalFault",
    "NoRoom",
    "PositionUnfit",
    "RecordsLost",
    "RefusedToStart",
    "StateForeign",
    "StreamsError",
    "TableDamaged",
    "TopicsUnfit",
    "TransactionHangs",
]


class StreamsError(Exception):
    """Base of what this room raises on its own."""


class RefusedToStart(StreamsError):
    """The worker cannot start; the message says what to do."""


class BrokerUnreachable(RefusedToStart):
    """No broker of the list answers."""


class TopicsUnfit(RefusedToStart):
    """A topic is missing, or its partition count differs from the source's."""


class DirectoryInUse(RefusedToStart):
    """Another live worker holds the data directory."""


class LocalFault(StreamsError):
    """The disk under the tables does not do what it should. Nothing is lost: the changelogs have every row."""


class TableDamaged(LocalFault):
    """Files of a table cannot be read; the next start sets them aside."""


class NoRoom(LocalFault):
    """A table cannot be written, since its disk is full; the message says which, and how much room there is."""


class Contradiction(StreamsError):
    """What must add up does not; going on could count wrongly."""


class RecordsLost(Contradiction):
    """A run of records does not begin where the one before it ended."""


class PositionUnfit(Contradiction):
    """The position row does not fit the log, the ledger or the group's committed offset."""


class StateForeign(Contradiction):
    """A local table reflects changelog records that the changelog does not have."""


class TransactionHangs(Contradiction):
    """A transaction on a partition's outputs does not end, not even by an abort of the writer that owns its id."""


class EpochUnfit(Contradiction):
    """A fold returned an epoch that does not end where its records end, or lacks its position row."""

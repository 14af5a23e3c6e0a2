"""What stops the sink, and what only delays it.

SinkError
├── Unavailable       ClickHouse or Kafka cannot take part just now; tried again with backoff, for ever
├── Interrupted       the process was asked to stop while it waited
└── MustStop          going on would make wrong tables; the process ends with EXIT_CODE
    ├── LedgerBroken  the ledger lacks facts, or holds one that this release cannot read
    ├── PositionLost  the stored position does not lie on the topic
    ├── SchemaDiffers the database was made by another release
    └── Refused       ClickHouse or Kafka refuses what this release sends

`from_clickhouse` and `from_kafka` are the only places where a driver's errors become these.
"""

from typing import Final

from clickhouse_connect.driver import exceptions as driver
from confluent_kafka import KafkaError

__all__ = [
    "EXIT_CODE",
    "Interrupted",
    "LedgerBroken",
    "MustStop",
    "PositionLost",
    "Refused",
    "SchemaDiffers",
    "SinkError",
    "Unavailable",
    "from_clickhouse",
    "from_kafka",
]

EXIT_CODE: Final = 70
"""EX_SOFTWARE: the supervisor starts the sink again with backoff, and the log says what a person must do."""


class SinkError(Exception):
    """The base of everything that the sink raises on purpose."""


class Unavailable(SinkError):
    """A server does not answer, or answers that it cannot do this now."""


class Interrupted(SinkError):
    """The process was asked to stop while something was being tried again."""


class MustStop(SinkError):
    """Going on would make wrong tables, or can never succeed."""


class LedgerBroken(MustStop):
    """The ledger lacks facts that later ones name, or holds one that this release cannot read."""


class PositionLost(MustStop):
    """The stored position lies beyond the topic's end, or its ledger records are gone: the log is another one."""


class SchemaDiffers(MustStop):
    """The database's tables were made by another release."""


class Refused(MustStop):
    """A server refuses what this release sends: a wrong password, a missing right or table, or a bug."""


# ClickHouse's error codes that say "not now": load, limits, storage, network, a server that is going down. All others
# would be answered alike for ever, and stop the process, so that the reason is seen.
_TRANSIENT_CODES: Final = frozenset(
    {
        74,  # CANNOT_READ_FROM_FILE_DESCRIPTOR
        75,  # CANNOT_WRITE_TO_FILE_DESCRIPTOR
        76,  # CANNOT_OPEN_FILE
        95,  # CANNOT_READ_FROM_SOCKET
        96,  # CANNOT_WRITE_TO_SOCKET
        159,  # TIMEOUT_EXCEEDED
        160,  # TOO_SLOW
        198,  # DNS_ERROR
        201,  # QUOTA_EXCEEDED: refilled with time
        202,  # TOO_MANY_SIMULTANEOUS_QUERIES
        203,  # NO_FREE_CONNECTION
        209,  # SOCKET_TIMEOUT
        210,  # NETWORK_ERROR
        225,  # NO_ZOOKEEPER
        236,  # ABORTED: the server is shutting down
        241,  # MEMORY_LIMIT_EXCEEDED
        242,  # TABLE_IS_READ_ONLY
        243,  # NOT_ENOUGH_SPACE
        252,  # TOO_MANY_PARTS: merges must catch up
        279,  # ALL_CONNECTION_TRIES_FAILED
        285,  # TOO_FEW_LIVE_REPLICAS
        286,  # UNSATISFIED_QUORUM_FOR_PREVIOUS_WRITE
        290,  # LIMIT_EXCEEDED
        319,  # UNKNOWN_STATUS_OF_INSERT: repeating it is harmless
        394,  # QUERY_WAS_CANCELLED: KILL QUERY, or the server is shutting down
        425,  # SYSTEM_ERROR
        439,  # CANNOT_SCHEDULE_TASK
        473,  # DEADLOCK_AVOIDED
        499,  # S3_ERROR
        745,  # SERVER_OVERLOADED
        999,  # KEEPER_EXCEPTION
        1000,  # POCO_EXCEPTION: mostly a disk or socket under the server
    }
)

# What the driver's classes mean when no code of ClickHouse's came with them. The nearest base class in this table counts.
_KIND_BY_CLASS: Final[dict[type[Exception], type[SinkError]]] = {
    driver.OperationalError: Unavailable,  # the connection failed or broke, or HTTP 429, 503, 504
    driver.StreamFailureError: Unavailable,
    driver.DatabaseError: Unavailable,  # an HTTP error that is none of ClickHouse's: a proxy without its server
    driver.DataError: Refused,
    driver.IntegrityError: Refused,
    driver.InternalError: Refused,
    driver.ProgrammingError: Refused,
    driver.StreamClosedError: Refused,
    driver.NotSupportedError: Refused,
    driver.InterfaceError: Refused,
    driver.Error: Refused,
    driver.Warning: Refused,  # data would be cut: never taken silently
    driver.ClickHouseError: Refused,
}

_POSITION_CODES: Final = frozenset(
    {KafkaError._AUTO_OFFSET_RESET, KafkaError._LOG_TRUNCATION, KafkaError.OFFSET_OUT_OF_RANGE}
)


def from_clickhouse(exc: driver.ClickHouseError) -> SinkError:
    """What an error of the driver means for the sink."""
    code = getattr(exc, "code", None)
    if code is not None:
        return Unavailable(str(exc)) if code in _TRANSIENT_CODES else Refused(str(exc))
    kind = next(_KIND_BY_CLASS[base] for base in type(exc).__mro__ if base in _KIND_BY_CLASS)
    return kind(str(exc))


def from_kafka(error: KafkaError, where: str) -> SinkError:
    """What an error of the consumer means for the sink; `where` names the topic and partition, or what was asked."""
    if error.code() in _POSITION_CODES:
        message = (
            f"{where}: the stored position is not on the topic ({error.str()}). It was made anew or truncated:"
            " point the sink at an empty ClickHouse database, or bring the topic back"
        )
        return PositionLost(message)
    return Refused(f"{where}: {error.str()}") if error.fatal() else Unavailable(f"{where}: {error.str()}")

"""The topics: names and settings. `meterlog topics create` makes them so; a topic found otherwise is an error."""

from typing import Final, NamedTuple

__all__ = [
    "ACCOUNTS_CHANGELOG",
    "CONTROL",
    "DEAD_LETTERS",
    "FOLD_GROUP",
    "FORWARDER_GROUP",
    "LEDGER",
    "SEEN_CHANGELOG",
    "STRIPE_INTENTS",
    "TOPICS",
    "USAGE_BACKFILL",
    "USAGE_EVENTS",
    "USAGE_TOTALS",
    "Topic",
]

_DAY_MS: Final = 86_400_000
_HOUR_MS: Final = 3_600_000
_FOR_EVER: Final = "-1"
# Retention and log time are the broker's: by its own clock a client could delete what it wrote, or be refused. A worker whose
# clock is behind would write ids and totals that are gone before they are read; one an hour ahead could write nothing at all.
_BROKERS_TIME: Final = {"message.timestamp.type": "LogAppendTime"}

USAGE_EVENTS: Final = "usage-events"
USAGE_BACKFILL: Final = "usage-backfill"
LEDGER: Final = "ledger"
USAGE_TOTALS: Final = "usage-totals"
ACCOUNTS_CHANGELOG: Final = "accounts-changelog"
SEEN_CHANGELOG: Final = "seen-changelog"
DEAD_LETTERS: Final = "dead-letters"
STRIPE_INTENTS: Final = "stripe-intents"
CONTROL: Final = "control"

FOLD_GROUP: Final = "meterlog-fold"
"""The fold's consumer group: its committed offsets are for lag tools, never the fold's position."""
FORWARDER_GROUP: Final = "meterlog-forwarder"
"""The forwarder's consumer group: what it has committed of `usage-backfill` lies on `usage-events`."""


class Topic(NamedTuple):
    """One topic's settings beside the deployment's partition count and replication."""

    name: str
    settings: dict[str, str]
    single_partition: bool = False


def _compact(**more: str) -> dict[str, str]:
    return {
        "cleanup.policy": "compact",
        **_BROKERS_TIME,
        **{name.replace("_", "."): value for name, value in more.items()},
    }


TOPICS: Final = (
    Topic(
        USAGE_EVENTS,
        {
            "cleanup.policy": "delete",
            **_BROKERS_TIME,
            "retention.ms": str(35 * _DAY_MS),
            "max.message.bytes": str(1 << 20),
        },
    ),
    # Longer than the window: what retention may take unforwarded, with the forwarder off for weeks, could not count any more.
    Topic(
        USAGE_BACKFILL,
        {
            "cleanup.policy": "delete",
            **_BROKERS_TIME,
            "retention.ms": str(40 * _DAY_MS),
            "max.message.bytes": str(1 << 20),
        },
    ),
    # A piece of a fact (256 KiB) bears its source record's key, which may be nearly as large as a record can be.
    Topic(
        LEDGER,
        {
            "cleanup.policy": "delete",
            **_BROKERS_TIME,
            "retention.ms": _FOR_EVER,
            "retention.bytes": _FOR_EVER,
            "max.message.bytes": str(2 << 20),
        },
    ),
    Topic(USAGE_TOTALS, {"cleanup.policy": "compact,delete", **_BROKERS_TIME, "retention.ms": str(40 * _DAY_MS)}),
    # A worker that was away longer than its tombstones live loads its tables anew; two weeks of absence are given.
    Topic(ACCOUNTS_CHANGELOG, _compact(delete_retention_ms=str(14 * _DAY_MS))),
    Topic(SEEN_CHANGELOG, {"cleanup.policy": "compact,delete", **_BROKERS_TIME, "retention.ms": str(75 * _DAY_MS)}),
    Topic(
        DEAD_LETTERS,
        {
            "cleanup.policy": "delete",
            **_BROKERS_TIME,
            "retention.ms": str(90 * _DAY_MS),
            "max.message.bytes": str(2 << 20),
        },
    ),
    Topic(STRIPE_INTENTS, {"cleanup.policy": "delete", **_BROKERS_TIME, "retention.ms": str(400 * _DAY_MS)}),
    Topic(CONTROL, _compact(max_compaction_lag_ms=str(_HOUR_MS)), single_partition=True),
)

"""The embedded parts' log events: each name, what it means, and the fields that come with it."""

from enum import StrEnum

__all__ = ["EmbeddedEvent"]


class EmbeddedEvent(StrEnum):
    """Said by the embedded ClickHouse's own process; the embedded Kafka logs in Kafka's way, in `broker.log`."""

    CLICKHOUSE_READY = "embedded.clickhouse.ready"
    """It serves: `port`."""
    CLICKHOUSE_STOPPED = "embedded.clickhouse.stopped"
    """It ended as asked: `clean`, false when statements still ran at the deadline."""

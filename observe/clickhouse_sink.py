"""Log events of the ClickHouse sink: their names, what each means, and its fields."""

from typing import Literal

__all__ = ["CLICKHOUSE_SINK_EVENTS", "ClickHouseSinkEvent"]

ClickHouseSinkEvent = Literal[
    "sink.clickhouse.started",
    "sink.clickhouse.batch_written",
    "sink.clickhouse.clickhouse_unavailable",
    "sink.clickhouse.kafka_unavailable",
    "sink.clickhouse.recovered",
    "sink.clickhouse.totals_expired",
    "sink.clickhouse.stopped",
    "sink.clickhouse.failed",
]

CLICKHOUSE_SINK_EVENTS: dict[ClickHouseSinkEvent, str] = {
    "sink.clickhouse.started": "It follows its topics. database, begins_at (offset by topic/partition).",
    "sink.clickhouse.batch_written": "Rows, then positions, are stored (debug). rows, positions, took_ms.",
    "sink.clickhouse.clickhouse_unavailable": "ClickHouse could not take part; tried again. doing, error, attempt, retry_in_s.",
    "sink.clickhouse.kafka_unavailable": "Kafka could not be read; tried again. error; at a start doing, attempt, retry_in_s.",
    "sink.clickhouse.recovered": "What had been unavailable is done. doing, attempts.",
    "sink.clickhouse.totals_expired": "Retention took totals that were never read; the ledger has their last values."
    " partition, stored_offset, begins_at.",
    "sink.clickhouse.stopped": "The process ends as asked. abandoned_rows (the next start writes them).",
    "sink.clickhouse.failed": "The process ends: going on would make wrong tables. kind, error.",
}

"""What the sink is told when it is started."""

from dataclasses import dataclass, field

from schemas.topics import LEDGER, USAGE_TOTALS

__all__ = ["SinkSettings"]


@dataclass(frozen=True, slots=True)
class SinkSettings:
    """Addresses, names and limits; the password does not show in the repr."""

    bootstrap_servers: str
    clickhouse_url: str
    clickhouse_user: str = "default"
    clickhouse_password: str = field(default="", repr=False)
    database: str = "meterlog"
    """Made when it does not exist. Its name is part of what analysts write."""
    ledger_topic: str = LEDGER
    totals_topic: str = USAGE_TOTALS
    batch_rows_max: int = 50_000
    """12 MB as Arrow; twice as many were no faster."""
    batch_bytes_max: int = 32 << 20
    """Of ledger records: bounds the memory that a run of records of the largest size takes."""
    interval_s: float = 0.5
    """Between two writes, unless a batch is full. Each makes a part per table, which merges must keep up with."""
    age_s_max: float = 60.0
    """A record that is not stored after this long makes health red."""
    rewind_ms: int = 15 * 60_000
    """How much log time a start reads again, should ClickHouse have lost its newest rows after all."""

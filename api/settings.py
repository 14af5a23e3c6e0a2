"""What the API's process is told from outside."""

from dataclasses import dataclass, field

__all__ = ["ApiSettings"]


@dataclass(frozen=True, slots=True)
class ApiSettings:
    """Frozen; the secret does not show in its repr."""

    bootstrap_servers: str
    host: str = "127.0.0.1"
    port: int = 8080
    partitions: int = 12
    """Of `usage-events`: where a customer's usage is found."""
    clickhouse_url: str = "http://127.0.0.1:8123"
    clickhouse_user: str = "default"
    clickhouse_password: str = field(default="", repr=False)
    clickhouse_database: str = "meterlog"
    ack_timeout_s: float = 10.0
    """How long Kafka may take to acknowledge a batch before it is answered with 503."""
    in_flight_events_max: int = 100_000
    """Ten of the largest batches; a broker that stalls costs 256 MiB at most."""
    requests_max: int = 32
    """Batches worked on at once: each may hold 20 MiB of body, packed and unpacked."""
    fold_lag_max: int = 1_000_000
    """Offsets behind which health is red: a minute of what one core folds is 3,000,000."""
    fold_age_s_max: float = 15.0
    """An acknowledged event that is not counted after this long makes health red."""
    sink_age_s_max: float = 60.0
    """A counted event that is not in ClickHouse after this long makes health yellow."""

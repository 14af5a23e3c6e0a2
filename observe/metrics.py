"""Every figure that a process shows: its name, what it means, its labels. No name of a metric stands anywhere else.

Names follow Prometheus: the unit last, `_total` behind what only grows. A label has few values, and never a customer's.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

__all__ = ["METRICS", "Kind", "Metric", "Role"]


class Role(StrEnum):
    """A process's part in the deployment: the words of its command."""

    ANY = "any"
    WORKER = "worker"
    API = "api"
    FORWARDER = "forwarder"
    CLICKHOUSE_SINK = "sink clickhouse"
    STRIPE_SINK = "sink stripe"


class Kind(StrEnum):
    """What may be done with a figure."""

    COUNTER = "counter"
    """Only grows; starts at 0 with its process."""
    GAUGE = "gauge"
    """As it is now."""
    HISTOGRAM = "histogram"
    """How often a value fell below each bound."""


@dataclass(frozen=True, slots=True, eq=False)  # by identity: noting a figure takes 1.2 us, a fifth less
class Metric:
    """A declared figure."""

    name: str
    kind: Kind
    role: Role
    meaning: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()
    """Of a histogram, ascending, in the unit of its name."""


_QUICK_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SLOW_S: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


def _counter(role: Role, name: str, meaning: str, *labels: str) -> Metric:
    return Metric(name, Kind.COUNTER, role, meaning, labels)


def _gauge(role: Role, name: str, meaning: str, *labels: str) -> Metric:
    return Metric(name, Kind.GAUGE, role, meaning, labels)


def _seconds(role: Role, name: str, meaning: str, *labels: str, bounds: tuple[float, ...] = _QUICK_S) -> Metric:
    return Metric(name, Kind.HISTOGRAM, role, meaning, labels, bounds)


# Every process

CHECK_STATE: Final = _gauge(
    Role.ANY, "meterlog_check_state", "How a check of /health stands: 0 green, 1 yellow, 2 red.", "check"
)
STALL_S: Final = _gauge(
    Role.ANY,
    "meterlog_main_loop_stall_seconds",
    "How long ago the process's main loop last turned; past a bound /livez fails.",
)

# The worker

WORKER_RECORDS: Final = _counter(
    Role.WORKER,
    "meterlog_worker_records_total",
    "Records of usage-events that were decided and committed.",
    "partition",
)
WORKER_EPOCHS: Final = _counter(Role.WORKER, "meterlog_worker_epochs_total", "Epochs committed.", "partition")
WORKER_COMMIT_S: Final = _seconds(
    Role.WORKER, "meterlog_worker_commit_seconds", "One epoch, from the transaction's begin to its rows on disk."
)
WORKER_FOLD_S: Final = _seconds(
    Role.WORKER,
    "meterlog_worker_fold_seconds",
    "One run of records decided in memory, while nothing else of the worker ran.",
)
WORKER_EVENTS: Final = _counter(
    Role.WORKER,
    "meterlog_worker_events_total",
    "Usage events by what became of them, as they were decided: counted, duplicate or rejected, with the reason of the"
    " last. After a take-over some are decided, and shown, again: `meterlog audit` is exact, this is not.",
    "outcome",
    "reason",
)
WORKER_LAG: Final = _gauge(
    Role.WORKER,
    "meterlog_worker_lag_offsets",
    "Offsets between what is committed and the partition's end as last fetched, markers among them.",
    "partition",
)
WORKER_WAITING_S: Final = _gauge(
    Role.WORKER,
    "meterlog_worker_uncounted_age_seconds",
    "How long this worker has known of the oldest record that is not committed, by its own clock; 0 when there is none.",
    "partition",
)
WORKER_APPEND_AGE_S: Final = _gauge(
    Role.WORKER,
    "meterlog_worker_uncounted_append_age_seconds",
    "This worker's clock less the append time of the oldest record that it fetched and has not committed: how old a backlog"
    " is, and wrong by as much as the two clocks differ. 0 when there is none.",
    "partition",
)
WORKER_LOG_TIME_S: Final = _gauge(
    Role.WORKER,
    "meterlog_worker_log_time_ahead_seconds",
    "Log time of the partition less this worker's clock: negative by the time since the last record, positive when the"
    " broker's clock is ahead.",
    "partition",
)
WORKER_PARTITIONS: Final = _gauge(Role.WORKER, "meterlog_worker_partitions", "Partitions that this worker folds.")
WORKER_STANDBYS: Final = _gauge(
    Role.WORKER,
    "meterlog_worker_standby_partitions",
    "Partitions of other workers whose tables this one keeps a copy of.",
)
WORKER_STANDING: Final = _gauge(
    Role.WORKER,
    "meterlog_worker_partitions_standing",
    "Partitions that stand before a record, by why: ahead, parked, behaviour.",
    "kind",
)
WORKER_RECOVERY_S: Final = _seconds(
    Role.WORKER,
    "meterlog_worker_take_over_seconds",
    "A take-over, from the assignment to the first fetch: tables loaded, positions compared.",
    bounds=_SLOW_S,
)
WORKER_TABLE_BYTES: Final = _gauge(
    Role.WORKER, "meterlog_worker_table_bytes", "Size of the open tables' files on this worker's disk.", "table"
)

# The forwarder

FORWARDER_RECORDS: Final = _counter(
    Role.FORWARDER, "meterlog_forwarder_records_total", "Records of backfills that are on the log, and acknowledged."
)
FORWARDER_WAITING: Final = _gauge(
    Role.FORWARDER,
    "meterlog_forwarder_waiting_records",
    "Records that were read and wait for the fold or their rate; `meterlog backfill status` counts those unread as well.",
)
FORWARDER_HELD: Final = _gauge(
    Role.FORWARDER,
    "meterlog_forwarder_partitions_held",
    "Partitions of which records wait and none could go for half a minute, since the fold commits nothing there.",
)

# The ClickHouse sink

CLICKHOUSE_ROWS: Final = _counter(
    Role.CLICKHOUSE_SINK, "meterlog_sink_clickhouse_rows_total", "Rows stored, repeats among them."
)
CLICKHOUSE_WRITE_S: Final = _seconds(
    Role.CLICKHOUSE_SINK, "meterlog_sink_clickhouse_write_seconds", "One batch stored: its rows, then its positions."
)
CLICKHOUSE_RETRIES: Final = _counter(
    Role.CLICKHOUSE_SINK,
    "meterlog_sink_clickhouse_retries_total",
    "Tries that a server could not take part in, and that were or will be made again.",
    "server",
)
CLICKHOUSE_POSITION: Final = _gauge(
    Role.CLICKHOUSE_SINK,
    "meterlog_sink_clickhouse_position_offset",
    "Everything before this offset is stored.",
    "topic",
    "partition",
)
CLICKHOUSE_LAG: Final = _gauge(
    Role.CLICKHOUSE_SINK,
    "meterlog_sink_clickhouse_lag_offsets",
    "Offsets between what is stored and the partition's end, markers among them.",
    "topic",
    "partition",
)
CLICKHOUSE_WAITING_S: Final = _gauge(
    Role.CLICKHOUSE_SINK,
    "meterlog_sink_clickhouse_unsent_age_seconds",
    "How long the sink has known of the oldest record that is not stored, by its own clock; 0 when there is none.",
)

# The Stripe sink

STRIPE_REQUESTS: Final = _counter(
    Role.STRIPE_SINK,
    "meterlog_sink_stripe_requests_total",
    "Totals for Stripe, by what came of it: accepted, refused, unlinked (no customer of Stripe's), unknown (told again).",
    "outcome",
)
STRIPE_ROUND_S: Final = _seconds(
    Role.STRIPE_SINK,
    "meterlog_sink_stripe_round_seconds",
    "One round: intents on the log, requests, outcomes on the log.",
    bounds=_SLOW_S,
)
STRIPE_POSITION: Final = _gauge(
    Role.STRIPE_SINK,
    "meterlog_sink_stripe_position_offset",
    "Totals before this offset of usage-totals are known.",
    "partition",
)
STRIPE_LAG: Final = _gauge(
    Role.STRIPE_SINK,
    "meterlog_sink_stripe_lag_offsets",
    "Offsets between what is read of usage-totals and the partition's end as last fetched.",
    "partition",
)
STRIPE_PENDING: Final = _gauge(
    Role.STRIPE_SINK, "meterlog_sink_stripe_pending_intents", "Totals that were told without a definite answer yet."
)
STRIPE_WAITING_S: Final = _gauge(
    Role.STRIPE_SINK,
    "meterlog_sink_stripe_unsent_age_seconds",
    "How long the sink has been behind: since when more is due than is told, or the oldest total without a definite answer was"
    " decided; 0 when neither.",
)

# The API

API_REQUEST_S: Final = _seconds(
    Role.API, "meterlog_api_request_seconds", "Requests answered, by route and status.", "route", "status"
)
API_EVENTS: Final = _counter(
    Role.API,
    "meterlog_api_events_total",
    "Usage events of POST /v1/events: accepted (acknowledged by Kafka), or rejected at the door with the reason.",
    "outcome",
    "reason",
)
API_ACK_S: Final = _seconds(
    Role.API,
    "meterlog_api_ack_seconds",
    "From a batch handed to Kafka's client to the last acknowledgement, or its failure.",
)
API_NOT_ACKNOWLEDGED: Final = _counter(
    Role.API, "meterlog_api_batches_not_acknowledged_total", "Batches answered with 503, to be sent again."
)
API_IN_FLIGHT: Final = _gauge(
    Role.API, "meterlog_api_events_in_flight", "Events handed to Kafka's client and not yet acknowledged."
)
API_KEYS: Final = _gauge(Role.API, "meterlog_api_keys", "API keys that are valid on this node.")
API_KEY_RING_AGE_S: Final = _gauge(
    Role.API,
    "meterlog_api_key_ring_age_seconds",
    "How long ago this node last knew every record of control: so late a revoked key may still be taken here.",
)
API_FOLD_LAG: Final = _gauge(
    Role.API, "meterlog_api_fold_lag_offsets", "What the fold is behind, all partitions, as this node sees it."
)
API_FOLD_WAITING_S: Final = _gauge(
    Role.API,
    "meterlog_api_fold_uncounted_age_seconds",
    "How long the oldest uncounted record has waited, as this node sees it: the figure behind /v1/health.",
)
API_SINK_WAITING_S: Final = _gauge(
    Role.API,
    "meterlog_api_clickhouse_sink_unsent_age_seconds",
    "Likewise for records that the ClickHouse sink has not stored.",
)

METRICS: Final[tuple[Metric, ...]] = tuple(found for found in list(vars().values()) if isinstance(found, Metric))

"""The forwarder's log events: each name, what it means, and the fields that come with it."""

from enum import StrEnum

__all__ = ["ForwarderEvent"]


class ForwarderEvent(StrEnum):
    """What the process says that carries `usage-backfill` over to `usage-events`."""

    STARTED = "forwarder.started"
    """Both topics are fit: `partitions`, `window` (unfolded records of a partition), `rate_max_per_s` (null: none)."""
    ASSIGNED = "forwarder.assigned"
    """It forwards these `partitions` from here on; another process may have others."""
    REVOKED = "forwarder.revoked"
    """It forwards these `partitions` no more."""
    PROGRESS = "forwarder.progress"
    """Every ten seconds in which records went: `forwarded` since the start, `rate_per_s` since the last one."""
    CAUGHT_UP = "forwarder.caught_up"
    """Everything that was read is on the log, and acknowledged: `forwarded` since the start."""
    HELD = "forwarder.held"
    """Records wait and none could go for half a minute, since the fold commits nothing of `partitions`: look at the worker."""
    RECORD_CUT = "forwarder.record_cut"
    """The log does not take so large a record: its first bytes went instead, which the fold lists as unreadable:
    `partition`, `offset`, `size_bytes`."""
    EXPIRED = "forwarder.expired"
    """Retention took records that were never forwarded, all of them too old to count: `partition`, `from`, `to` (offsets)."""
    KAFKA_UNAVAILABLE = "forwarder.kafka_unavailable"
    """Kafka does not answer; tried again: `error`."""
    STOPPED = "forwarder.stopped"
    """The process ends as asked: `forwarded` since the start."""
    FAILED = "forwarder.failed"
    """The process ends, to be started anew: `kind`, `error`."""

"""What the forwarder is told when it is started."""

from dataclasses import dataclass

from schemas.topics import FOLD_GROUP, FORWARDER_GROUP, USAGE_BACKFILL, USAGE_EVENTS

__all__ = ["ForwarderSettings"]


@dataclass(frozen=True, slots=True)
class ForwarderSettings:
    """Addresses, names and limits."""

    bootstrap_servers: str
    window: int = 1_000
    """Forwarded records of a partition that the fold has not committed yet, at most: what a live event may find before it.
    The fold takes some 20 to 200 ms for a thousand; an epoch takes 100 ms and more, so that fewer would slow a backfill down."""
    wait_s_target: float = 1.0
    """Where the fold takes longer for what is in the window, it shrinks, to 50 records at least."""
    rate_max_per_s: float | None = None
    """Records a second in all, of this process; None: as many as the window lets pass."""
    history_topic: str = USAGE_BACKFILL
    log_topic: str = USAGE_EVENTS
    group: str = FORWARDER_GROUP
    fold_group: str = FOLD_GROUP
    session_timeout_s: float = 6.0
    """After how long the partitions of a process that was killed go to another; the broker takes nothing shorter."""

"""What a worker is told: addresses, names, limits. Read by the composition root, handed in as arguments."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from schemas import topics
from streams.port import TABLES

__all__ = ["Options", "TopicNames", "wall_clock_ms"]


def wall_clock_ms() -> int:
    """Now, in milliseconds since 1970."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class TopicNames:
    """The topics that a worker reads and writes; all have the same partition count."""

    source: str = topics.USAGE_EVENTS
    ledger: str = topics.LEDGER
    totals: str = topics.USAGE_TOTALS
    dead_letters: str = topics.DEAD_LETTERS
    accounts_changelog: str = topics.ACCOUNTS_CHANGELOG
    seen_changelog: str = topics.SEEN_CHANGELOG

    @property
    def changelogs(self) -> dict[str, str]:
        """Changelog topic by table."""
        return dict(zip(TABLES, (self.accounts_changelog, self.seen_changelog), strict=True))

    @property
    def outputs(self) -> tuple[str, ...]:
        """What a partition's writer writes."""
        return (self.ledger, self.totals, self.dead_letters, *self.changelogs.values())

    @property
    def all(self) -> tuple[str, ...]:
        return (self.source, *self.outputs)


@dataclass(frozen=True, slots=True)
class Options:
    """One worker's settings."""

    bootstrap_servers: str
    """host:port, separated by commas."""
    data_dir: Path
    """Where the tables lie; this worker's alone."""
    group: str = topics.FOLD_GROUP
    """Consumer group, and prefix of the partitions' transactional ids."""
    instance_id: str | None = None
    """Static membership: a restarted worker takes its partitions back at once, instead of after `session_timeout_s`.
    Must be unique in the group. None: a dynamic member, which leaves the group when it stops."""
    session_timeout_s: float = 6.0
    """How long a silent worker keeps its partitions; also how long a drain may take."""
    standby_replicas: int = 1
    """How many other workers follow a partition's changelogs, to take it over at once; fewer where there are no others."""
    stop_timeout_s: float = 10.0
    """How long a stop may take before the process ends anyhow; it promises nothing that is not committed."""
    topics: TopicNames = field(default_factory=TopicNames)
    records_per_epoch_max: int = 8_000
    """An epoch of so many closes as soon as the one before is committed."""
    records_open_max: int = 20_000
    """Of one partition, decided and not yet being committed: past it, folding and fetching pause. A fold that runs far
    ahead of its commits would have much to do again after a crash, and rows to hold in memory meanwhile."""
    records_ahead_max: int = 4_000
    """What a worker folds while a commit is under way, all partitions together; then the loop is the commit's. A commit
    takes some thirty turns of the loop: with a backlog to fold between them it took longer than its transaction may last."""
    epoch_interval_s: float = 0.1
    """Between the beginnings of two epochs of a partition, unless one is full: a trickle of events would otherwise make
    a transaction each, which costs worker and broker some 3 ms. The first after a pause does not wait."""
    transactions_at_once: int = 1
    """How many partitions commit at once. Many small transactions would collapse (500/s); a partition that waits for its
    turn gathers a larger epoch."""
    commit_timeout_s: float = 60.0
    """A commit that takes longer ends the process; aiokafka would wait for a lost coordinator for ever."""
    transaction_timeout_ms: int = 10_000
    """When the broker aborts what a vanished worker left open; until then readers of committed records stand."""
    state_age_max_ms: int = 7 * 86_400_000
    """Local tables that were out of date for longer are loaded anew: compaction drops tombstones after 14 days."""
    block_cache_bytes: int = 64 << 20
    """RocksDB's, shared by all tables of the worker."""
    now_ms: Callable[[], int] = wall_clock_ms

"""A worker's log events: each name, what it means, and the fields that come with it."""

from enum import StrEnum

__all__ = ["StreamsEvent"]


class StreamsEvent(StrEnum):
    """What a worker says of itself."""

    STARTING = "worker.starting"
    """Broker and topics are fit; the group is joined next: `group`, `partitions` (of each topic), `data_dir`."""
    LOADED = "partitions.loaded"
    """Tables have reached their changelogs' ends: `partitions`, `changelog_records` (read for it)."""
    HUNG = "transactions.hung"
    """Transactions whose end the broker never marked are aborted; what they held is folded again: `partitions`."""
    WIPED = "tables.wiped"
    """A local table is loaded anew, since it may lack deletions: `table`, `partition`, `below_start`, `too_old`."""
    CONTRADICTED = "tables.contradicted"
    """A partition's local tables tell of a transaction that was aborted, and are loaded anew: `partitions`."""
    SET_ASIDE = "tables.set_aside"
    """A local table's files are not whole; it is loaded anew: `table`, `to` (where they lie now), `reason`."""
    OWNED = "partitions.owned"
    """The partitions fold from here on: `offsets` (where, by partition). Those not named are not this worker's."""
    STANDS = "partition.stands"
    """A partition's fold stands before a record; the others go on: `partition`, `offset`, `kind`, `message` (what to do)."""
    GOES_ON = "partition.goes_on"
    """It was let through: `partition`, `offset`, `kind`."""
    STANDS_BY = "partitions.standby"
    """The changelogs of these partitions, which another worker owns, are followed from here on: `partitions`."""
    STANDBY_READY = "standby.ready"
    """They have reached their changelogs' ends for the first time: `partitions`, `changelog_records` (read for it since the
    last trouble). The other worker may be restarted now."""
    STANDBY_WAITS = "standby.waits"
    """A changelog cannot be read; it is tried again: `reason`. A take-over would have more to load."""
    STOPPING = "worker.stopping"
    """It was asked to stop: the figures of `streams.engine.Snapshot`."""
    STOPPED = "worker.stopped"
    """It has drained and left the group: `records` (folded since the start)."""
    STOP_CUT_SHORT = "worker.stop_cut_short"
    """The stop took longer than it may; the process ends as it is, exit code 0: `after_s`."""
    SURPRISED = "worker.surprised"
    """Something does not add up; the process ends with code 70 before it can commit: `doing`, `reason`."""

"""What a history is made of: steps at moments, each droppable by itself, each readable by a person."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = [
    "Action",
    "Away",
    "BrokerClock",
    "Compact",
    "CutOff",
    "Effect",
    "Fault",
    "ForeignTxn",
    "ForgetGroup",
    "Join",
    "Leap",
    "Pause",
    "Rebalance",
    "Record",
    "Send",
    "Step",
    "WorkerClock",
    "duration",
]


class Effect(StrEnum):
    """What goes wrong at a point."""

    KILLED = "killed before"
    KILLED_AFTER = "killed after"
    """The request took effect; its answer finds nobody."""
    LOST = "the request is lost"
    UNHEARD = "it takes effect, and the answer is lost"
    LATE = "the request arrives late"
    PAUSED = "stopped (SIGSTOP)"
    CUT_OFF = "thrown out of the group, and not told"


@dataclass(frozen=True, slots=True)
class Fault:
    """Something goes wrong at the nth point of its kind, counted over all workers."""

    kind: str
    nth: int
    effect: Effect
    seconds: float = 0.0

    def __str__(self) -> str:
        lasting = f" for {self.seconds:.1f} s" if self.seconds else ""
        return f"at {self.kind} number {self.nth}: {self.effect}{lasting}"


@dataclass(frozen=True, slots=True)
class Record:
    """A record of the load: bytes for the product, a note for the model."""

    partition: int
    key: bytes | None
    value: bytes | None
    note: object
    headers: tuple[tuple[str, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class Send:
    record: Record

    def __str__(self) -> str:
        return f"produced to partition {self.record.partition}: {self.record.note}"


@dataclass(frozen=True, slots=True)
class ForeignTxn:
    """A producer's own transaction on the source."""

    records: tuple[Record, ...]
    end: str
    """`commit`, `abort`, or `abandon`: left open until the broker ends it."""

    def __str__(self) -> str:
        inner = "; ".join(f"{record.partition}: {record.note}" for record in self.records)
        return f"a foreign transaction, {self.end}: {inner}"


@dataclass(frozen=True, slots=True)
class Away:
    """A node's worker goes, and comes back."""

    node: int
    seconds: float
    how: str = "killed"
    """`killed` or `left`."""
    lost_batches: tuple[int, ...] = ()
    """Write batches that a power failure takes, by table."""
    wiped: bool = False

    def __str__(self) -> str:
        disk = f", losing the last write batches {self.lost_batches}" if self.lost_batches else ""
        disk += ", its disk wiped" if self.wiped else ""
        return f"worker {self.node} is gone ({self.how}){disk}, back after {self.seconds:.1f} s"


@dataclass(frozen=True, slots=True)
class Join:
    node: int

    def __str__(self) -> str:
        return f"worker {self.node} starts"


@dataclass(frozen=True, slots=True)
class Pause:
    node: int
    seconds: float

    def __str__(self) -> str:
        return f"worker {self.node} is stopped for {self.seconds:.1f} s (SIGSTOP)"


@dataclass(frozen=True, slots=True)
class CutOff:
    node: int
    seconds: float

    def __str__(self) -> str:
        return f"worker {self.node} is thrown out of the group, and told after {self.seconds:.1f} s"


@dataclass(frozen=True, slots=True)
class Rebalance:
    def __str__(self) -> str:
        return "the group rebalances"


@dataclass(frozen=True, slots=True)
class BrokerClock:
    ms: int

    def __str__(self) -> str:
        return f"the broker's clock jumps by {duration(self.ms)}"


@dataclass(frozen=True, slots=True)
class WorkerClock:
    node: int
    ms: int

    def __str__(self) -> str:
        return f"worker {self.node}'s clock jumps by {duration(self.ms)}"


@dataclass(frozen=True, slots=True)
class Leap:
    """A quiet time passes for everyone; retention and compaction do what they do meanwhile."""

    ms: int

    def __str__(self) -> str:
        return f"{duration(self.ms)} pass"


@dataclass(frozen=True, slots=True)
class Compact:
    share: float
    """Of each changelog, from its head."""

    def __str__(self) -> str:
        return f"the first {self.share:.0%} of the changelogs are compacted"


@dataclass(frozen=True, slots=True)
class ForgetGroup:
    """The group's offsets expire, or somebody sets them back to the beginning."""

    reset: bool

    def __str__(self) -> str:
        return "the group's offsets are " + ("set back to the log's start" if self.reset else "forgotten")


Action = (
    Send
    | ForeignTxn
    | Away
    | Join
    | Pause
    | CutOff
    | Rebalance
    | BrokerClock
    | WorkerClock
    | Leap
    | Compact
    | ForgetGroup
    | Fault
)


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a history; `number` is its name when a history is told again without others."""

    number: int
    at_s: float
    action: Action

    def __str__(self) -> str:
        when = "         " if isinstance(self.action, Fault) else f"{self.at_s:7.2f} s"
        return f"{self.number:4d}  {when}  {self.action}"


def duration(ms: int) -> str:
    """For people: in the largest unit that fits."""
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1_000)):
        if abs(ms) >= size:
            return f"{ms / size:+.4g} {unit}"
    return f"{ms:+d} ms"

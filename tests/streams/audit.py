"""What the toy fold should have done, found by the plainest means, against everything that it left behind.

Independent of the engine and of the toy fold's own code: dictionaries over the source's committed records.
"""

from __future__ import annotations

import struct
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import rocksdict

from tests.streams.world import Log, World, wait_until

_EVENT = struct.Struct(">16sq")
_FACT = struct.Struct(">16sqqq")
_SUM = struct.Struct(">qqq")
_OFFSET = struct.Struct(">q")
_ENGINE_KEYS = b"\xff\xff"
_MARKERS_S = 15.0  # within it the broker also aborts what a killed worker left open


@dataclass
class Expected:
    """What one partition should hold after its first records."""

    ledger: list[tuple[bytes | None, bytes | None]] = field(default_factory=list)
    dead_letters: list[tuple[bytes | None, bytes | None]] = field(default_factory=list)
    sums: dict[bytes, tuple[int, int, int]] = field(default_factory=dict)
    seen: dict[bytes, int] = field(default_factory=dict)


def naive(source: Log, position: int) -> Expected:
    """Fold the records before `position` as a person would."""
    result = Expected()
    for offset, key, value in source:
        if offset >= position:
            break
        if key is None or value is None or len(value) != _EVENT.size:
            result.dead_letters.append((_OFFSET.pack(offset), value or b""))
            continue
        event_id, quantity = _EVENT.unpack(value)
        if key + event_id in result.seen:
            continue
        result.seen[key + event_id] = offset
        total, count, _ = result.sums.get(key, (0, 0, -1))
        result.sums[key] = (total + quantity, count + 1, offset)
        result.ledger.append((key, _FACT.pack(event_id, quantity, offset, total + quantity)))
    return result


def differences(world: World, *, complete: bool) -> list[str]:
    """Everything that is not as it should be, in words; empty when all is exact.

    At any moment: each partition's outputs are exactly those of the records before its position row, no more and no
    less. `complete`: and the positions are at the source's end.
    """
    topics = world.topics
    logs = world.read(*topics.all)
    found = []
    for number in range(world.partitions):
        found += _partition_differences({name: logs[name][number] for name in topics.all}, world, number, complete)
    committed = world.group_offsets()
    for number in range(world.partitions):
        position = _position(logs[topics.accounts_changelog][number])
        if committed[number] != position:
            found.append(f"partition {number}: the group committed {committed[number]}, the position row is {position}")
    return found


def settled_differences(world: World) -> list[str]:
    """What is left when the broker had time to write the markers of the last commits.

    A commit is acknowledged before its markers are written, topic by topic: a reader of committed records sees some of a
    transaction's topics a moment before the others.
    """
    found: list[str] = []

    def is_exact() -> bool:
        found[:] = differences(world, complete=False)
        return not found

    with suppress(AssertionError):  # which would not say what is left
        wait_until("the outputs are whole", is_exact, _MARKERS_S)
    return found


def _partition_differences(logs: dict[str, Log], world: World, number: int, complete: bool) -> list[str]:
    topics = world.topics
    source, accounts = logs[topics.source], _last_values(logs[topics.accounts_changelog])
    position = _position(logs[topics.accounts_changelog])
    expected = naive(source, position)
    sums = {key: _SUM.pack(*values) for key, values in expected.sums.items()}
    seen = {key: _OFFSET.pack(offset) for key, offset in expected.seen.items()}
    rows = {key[1:]: value for key, value in accounts.items() if key[:1] == b"c"}
    checks = {
        "ledger": ([(k, v) for _, k, v in logs[topics.ledger]], expected.ledger),
        "dead letters": ([(k, v) for _, k, v in logs[topics.dead_letters]], expected.dead_letters),
        "totals": (_last_values(logs[topics.totals]), sums),
        "accounts": (rows, sums),
        "seen": (_last_values(logs[topics.seen_changelog]), seen),
    }
    found = [
        f"partition {number}: {name} has {len(have)} where {len(want)} should be (position {position})"
        for name, (have, want) in checks.items()
        if have != want
    ]
    end = source[-1][0] + 1 if source else 0
    if complete and position != end:
        found.append(f"partition {number}: the position is {position}, the source ends at {end}")
    return found


def disk_differences(world: World, data_dir: Path, partitions: list[int]) -> list[str]:
    """A stopped worker's tables against the changelogs' last values."""
    found = []
    logs = world.read(*world.topics.changelogs.values())
    for table, topic in world.topics.changelogs.items():
        for number in partitions:
            have = _rows_on_disk(data_dir / "tables" / f"{table}-{number}")
            want = _last_values(logs[topic][number])
            if have != want:
                found.append(f"{table}-{number}: {len(have)} rows on disk, {len(want)} in the changelog")
    return found


def _rows_on_disk(path: Path) -> dict[bytes, bytes]:
    options = rocksdict.Options(raw_mode=True)
    database = rocksdict.Rdict(str(path), options=options, access_type=rocksdict.AccessType.read_only())
    try:
        return {key: value for key, value in database.items() if not key.startswith(_ENGINE_KEYS)}
    finally:
        database.close()


def _last_values(log: Log) -> dict[bytes, bytes]:
    rows: dict[bytes, bytes] = {}
    for _, key, value in log:
        assert key is not None, "a row has a key"
        if value is None:
            rows.pop(key, None)
        else:
            rows[key] = value
    return rows


def _position(accounts: Log) -> int:
    raw = _last_values(accounts).get(b"!position")
    return 0 if raw is None else int(_OFFSET.unpack(raw)[0])

"""The faults, each a small function over a deployment: what is done to it while load comes.

What must be true afterwards is the same for all, and checked by whoever runs them: every book says what was sent. Beyond that
a scenario asserts what is its own, such as the exit code of a worker that was replaced. It starts the workers that it wants,
and leaves some that own every partition.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from confluent_kafka.admin import AdminClient

from tests.faults.command import ROOT
from tests.faults.deployment import DEADLINE_S, EXIT_REFUSED, EXIT_SURPRISE, KINDS, PARTITIONS, Deployment
from tests.faults.load import TOPIC

__all__ = ["SCENARIOS", "Act", "Scenario", "Site", "Skipped"]


@dataclass
class Act:
    """What a scenario gets."""

    deployment: Deployment
    rng: random.Random
    seed: str


class Site(NamedTuple):
    """The kind of deployment that a scenario needs; those of one kind share one."""

    brokers: int = 1
    kind: str = ""
    """Of a scenario that leaves its deployment of no use to others, or needs odd brokers."""


class Skipped(Exception):
    """The scenario cannot be played here; the message says why."""


_PRODUCTION_SESSION_S: Final = 6.0
"""A worker hands its partitions over within its session; on a machine that runs many tests 2 s are not enough."""

_YEAR_MS: Final = 365 * 86_400_000
_DISK_MIB: Final = 256
"""RocksDB reserves the room of its logs beforehand, 9 MiB for each of eight databases."""
_TIMELESS: Final = tuple(kind for kind in KINDS if kind != "ten hours ahead")
"""Where the log's time is a day ahead, ten hours are no future."""
_COMPACTS_AT_ONCE: Final = {
    "segment.ms": "500",
    "min.cleanable.dirty.ratio": "0.01",
    "delete.retention.ms": "100",
    "min.compaction.lag.ms": "0",
}

ONE_BROKER: Final = Site()
THREE_BROKERS: Final = Site(brokers=3)


class Scenario(NamedTuple):
    name: str
    run: Callable[[Act], None]
    site: Site
    in_short: bool
    """Whether `make test` runs it; all are in `make faults`."""


SCENARIOS: Final[dict[str, Scenario]] = {}


def scenario(name: str, site: Site = ONE_BROKER, *, in_short: bool = False) -> Callable[[Callable[[Act], None]], None]:
    def register(run: Callable[[Act], None]) -> None:
        SCENARIOS[name] = Scenario(name, run, site, in_short)

    return register


# Workers come and go


@scenario("workers join, die and leave", in_short=True)
def _members(act: Act) -> None:
    there = act.deployment
    (first,) = there.start("one")
    with there.load(act.seed) as load:
        there.wait_sent(load, act.rng.randrange(200, 800))
        there.start("two")
        there.wait_sent(load, act.rng.randrange(200, 800))
        there.start("three")
        there.wait_sent(load, act.rng.randrange(200, 800))
        first.kill()
        there.wait_sent(load, act.rng.randrange(200, 800))
        there.wait_owned()
        first.start_again()
        there.wait_owned([first])
        there.worker("two").stop()
        there.wait_owned()
        there.wait_sent(load, 400)


@scenario("workers are killed at random moments")
def _kills(act: Act) -> None:
    there = act.deployment
    workers = there.start("one", "two", static=True)
    with there.load(act.seed, rate=1_000) as load:
        for _ in range(5):
            there.wait_sent(load, act.rng.randrange(100, 1_500))
            victim = act.rng.choice(workers)
            victim.kill()
            victim.start_again()
    there.wait_owned(workers)


@scenario("a worker sleeps until it was replaced, and wakes up", in_short=True)
def _zombie(act: Act) -> None:
    there = act.deployment
    sleeper, heir = there.start("one", "two")
    with there.load(act.seed) as load:
        there.wait_sent(load, act.rng.randrange(300, 1_000))
        lost = sleeper.owned
        sleeper.pause()
        there.wait_owned([heir])
        there.wait_progress(300, lost)
        sleeper.resume()
        assert sleeper.wait_exit() == EXIT_SURPRISE, f"a zombie must end: {sleeper.log()}"
        sleeper.start_again()
        there.wait_owned([sleeper, heir])
        there.wait_sent(load, 300)


@scenario("a standby is promoted")
def _standby(act: Act) -> None:
    """Its owner dies without a word; how long nothing is counted is the session's 2 s and the take-over."""
    there = act.deployment
    victim, heir = there.start("one", "two")
    with there.load(act.seed) as load:
        there.wait_sent(load, act.rng.randrange(300, 1_000))
        there.wait_until(lambda: heir.told("standby.ready"), "the standby has reached the changelogs' ends")
        victim.kill()
        began_s = time.monotonic()
        there.wait_owned([heir])
        there.notes.append(f"owned again {time.monotonic() - began_s:.1f} s after the kill")
        taken = heir.told("partitions.loaded")[-1]
        there.notes.append(f"{taken['changelog_records']} changelog records were read for it")
        there.wait_sent(load, 300)


@scenario("a rolling restart")
def _rolling(act: Act) -> None:
    there = act.deployment
    workers = there.start("one", "two", "three", static=True, session_s=_PRODUCTION_SESSION_S)
    with there.load(act.seed, rate=1_000) as load:
        for worker in workers:
            there.wait_sent(load, act.rng.randrange(500, 1_500))
            worker.stop()
            worker.start_again()
            there.wait_owned(workers)
        there.wait_sent(load, 500)
    assert there.exits() == {}, "a restart is no surprise to anybody"


# What a worker has on its disk


@scenario("a worker's data directory is gone", in_short=True)
def _wiped(act: Act) -> None:
    there = act.deployment
    victim, _ = there.start("one", "two", static=True)
    with there.load(act.seed) as load:
        there.wait_sent(load, act.rng.randrange(300, 1_000))
        victim.kill()
        victim.wipe()
        victim.start_again()
        there.wait_owned([victim])
        there.wait_sent(load, 300)


@scenario("a worker's data directory is put back as it was")
def _old_backup(act: Act) -> None:
    """As a disk that lost its last writes with the power: consistent, and of an earlier moment."""
    there = act.deployment
    victim, _ = there.start("one", "two", static=True)
    backup = victim.directory.with_suffix(".backup")
    with there.load(act.seed) as load:
        there.wait_sent(load, act.rng.randrange(300, 1_000))
        victim.stop()
        shutil.copytree(victim.directory, backup)
        victim.start_again()
        there.wait_owned([victim])
        there.wait_sent(load, act.rng.randrange(300, 1_000))
        victim.kill()
        victim.wipe()
        backup.rename(victim.directory)
        victim.start_again()
        there.wait_owned([victim])
        there.wait_sent(load, 300)


@scenario("a worker's tables are torn")
def _torn_tables(act: Act) -> None:
    """Files cut, emptied, overwritten or gone: whatever a disk that lies about its writes leaves behind."""
    there = act.deployment
    victim, _ = there.start("one", "two", static=True)
    with there.load(act.seed) as load:
        for tear in act.rng.sample(_TEARS, 3):
            there.wait_sent(load, act.rng.randrange(200, 600))
            victim.kill()
            torn = tear(victim.tables, act.rng)
            there.notes.append(f"{tear.__name__.strip('_')}: {', '.join(torn)}")
            victim.start_again()
            there.wait_owned([victim])
        there.wait_sent(load, 300)


def _databases(tables: Path) -> list[Path]:
    return sorted(path for path in tables.iterdir() if path.is_dir() and (path / "CURRENT").exists())


def _files(tables: Path, suffix: str) -> list[Path]:
    return [file for database in _databases(tables) for file in database.glob(f"*{suffix}") if file.stat().st_size]


def _cut_logs(tables: Path, rng: random.Random) -> list[str]:
    """The write-ahead log ends in the middle of a batch: RocksDB by itself goes back to the last whole one."""
    return [_cut(file, rng) for file in _files(tables, ".log")]


def _cut_manifests(tables: Path, rng: random.Random) -> list[str]:
    manifests = [file for database in _databases(tables) for file in database.glob("MANIFEST-*")]
    return [_cut(file, rng) for file in manifests]


def _lose_manifests(tables: Path, _: random.Random) -> list[str]:
    return [_lose(file) for database in _databases(tables) for file in database.glob("MANIFEST-*")]


def _empty_current(tables: Path, _: random.Random) -> list[str]:
    for database in _databases(tables):
        (database / "CURRENT").write_bytes(b"")
    return ["CURRENT"]


def _overwrite_tables(tables: Path, rng: random.Random) -> list[str]:
    return [_overwrite(file, rng) for file in _files(tables, ".sst")]


def _lose_tables(tables: Path, _: random.Random) -> list[str]:
    return [_lose(file) for file in _files(tables, ".sst")]


_TEARS: Final = (_cut_logs, _cut_manifests, _lose_manifests, _empty_current, _overwrite_tables, _lose_tables)


def _cut(file: Path, rng: random.Random) -> str:
    size = file.stat().st_size
    with file.open("r+b") as opened:
        opened.truncate(rng.randrange(size))
    return file.name


def _overwrite(file: Path, rng: random.Random) -> str:
    """A hole of zeros in its first half, where the data is."""
    size = file.stat().st_size
    with file.open("r+b") as opened:
        opened.seek(rng.randrange(max(1, size // 2)))
        opened.write(bytes(min(64, size)))
    return file.name


def _lose(file: Path) -> str:
    file.unlink()
    return file.name


# The group, and others on the log


@scenario("the group's offsets have expired", in_short=True)
def _expired_offsets(act: Act) -> None:
    there = act.deployment
    workers = there.start("one", "two")
    with there.load(act.seed) as load:
        there.wait_sent(load, act.rng.randrange(300, 1_000))
        for worker in workers:
            worker.stop()
        _delete_group(there)
        there.wait_sent(load, act.rng.randrange(100, 500))
        there.start("one", "two")
        there.wait_sent(load, 300)


def _delete_group(there: Deployment) -> None:
    """As the broker does it once nobody was in the group for `offsets.retention.minutes`."""
    admin = AdminClient({"bootstrap.servers": there.bootstrap_servers, "log_level": 0})
    for future in admin.delete_consumer_groups([there.group]).values():
        future.result(DEADLINE_S)


@scenario("somebody's transaction on the log is abandoned", in_short=True)
def _abandoned_transaction(act: Act) -> None:
    """A producer dies in the middle: its records lie between the others, and readers wait until the broker aborts them."""
    there = act.deployment
    workers = there.start("one", "two")
    with there.load(act.seed) as load:
        there.wait_sent(load, act.rng.randrange(100, 500))
        _abandon_transaction(there)
        before = there.folded()
        there.wait_sent(load, 800)
        stood = {number: there.folded()[number] - offset for number, offset in before.items()}
        there.notes.append(f"folded behind its begin: {sum(stood.values())} of 800")
    there.wait_folded()
    assert there.exits() == {}, "nobody ends because of somebody else's transaction"
    there.wait_owned(workers)


_ABANDON: Final = """
import sys
from confluent_kafka import Producer
producer = Producer({"bootstrap.servers": sys.argv[1], "transactional.id": "abandoned", "transaction.timeout.ms": 4_000})
producer.init_transactions(60)
producer.begin_transaction()
for partition in range(int(sys.argv[2])):
    for number in range(20):
        producer.produce("usage-events", b"never committed", b"acme/ann", partition=partition)
assert producer.flush(60) == 0
print("in the middle", flush=True)
sys.stdin.read()
"""


def _abandon_transaction(there: Deployment) -> None:
    argv = [sys.executable, "-c", _ABANDON, there.bootstrap_servers, str(PARTITIONS)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        process.kill()
    assert said == "in the middle\n", "the foreign producer has begun its transaction"


# Brokers


@scenario("the only broker is killed")
def _only_broker(act: Act) -> None:
    there = act.deployment
    workers = there.start("one", "two", static=True)
    with there.load(act.seed) as load:
        for _ in range(2):
            there.wait_sent(load, act.rng.randrange(300, 1_000))
            there.kafka.kill()
            there.kafka.restart()
            there.wait_progress(300)
    there.wait_owned(workers)


@scenario("the only broker answers slowly")
def _slow_broker(act: Act) -> None:
    """It stops for up to a second, again and again, as one whose disk or collector holds it up."""
    there = act.deployment
    workers = there.start("one", "two", static=True)
    with there.load(act.seed) as load:
        for _ in range(8):
            there.wait_sent(load, act.rng.randrange(50, 300))
            there.freeze_broker(act.rng.uniform(0.2, 1.2))
        there.wait_progress(300)
    there.wait_owned(workers)


@scenario("each of three brokers is killed in turn", THREE_BROKERS)
def _each_broker(act: Act) -> None:
    there = act.deployment
    workers = there.start("one", "two", static=True)
    with there.load(act.seed, acks="all") as load:
        for index in act.rng.sample(range(3), 3):
            there.wait_sent(load, act.rng.randrange(300, 1_000))
            there.kafka.kill(index)
            there.wait_progress(500)
            there.kafka.restart(index)
            there.wait_in_sync()
    there.wait_owned(workers)


# Clocks


@scenario("a worker's clock jumps")
def _worker_clock(act: Act) -> None:
    """A day ahead and half an hour behind: it decides nothing, so a partition waits at most, until the clock is right."""
    there = act.deployment
    clock = there.directory / "clock"
    clock.write_text("0")
    workers = there.start("one", "two", static=True, odd={"clock_file": str(clock)})
    with there.load(act.seed) as load:
        for off_s in act.rng.sample((30 * 3_600, -1_800, 40, -40), 4):
            clock.write_text(str(off_s))
            there.wait_sent(load, act.rng.randrange(200, 500))
            clock.write_text("0")
            there.wait_progress(200)
    there.wait_owned(workers)


@scenario("a record from a year ahead")
def _ahead(act: Act) -> None:
    """What a broker's wrong clock looks like to the fold. Its partition stands until the operator says what its time is."""
    there = act.deployment
    there.alter_topic(
        TOPIC, {"message.timestamp.type": "CreateTime", "message.timestamp.after.max.ms": str(2 * _YEAR_MS)}
    )
    there.start("one", "two")
    with there.load(act.seed) as load:
        there.wait_sent(load, act.rng.randrange(200, 600))
        place = there.send_one(act.seed, timestamp_ms=time.time_ns() // 1_000_000 + _YEAR_MS)
        there.wait_stands(place, "ahead")
        there.wait_progress(200, [number for number in range(PARTITIONS) if number != place.partition])
        assert there.folded()[place.partition] <= place.offset, "nobody folds past a record that is ahead"
        there.order("freeze-time", "--to", str(place.offset), place=place)
        there.wait_progress(100, [place.partition])
    there.alter_topic(TOPIC, {"message.timestamp.type": "LogAppendTime"})


@scenario("a broker whose clock jumps a year ahead", Site(kind="clock"))
def _broker_clock(act: Act) -> None:
    """All that it appends meanwhile is stamped with that time, on every partition; then somebody mends the clock."""
    there = act.deployment
    there.start("one", "two", static=True)
    with there.load(act.seed) as load:
        there.wait_sent(load, act.rng.randrange(200, 600))
        there.set_broker_clock(_YEAR_MS)
        there.wait_sent(load, act.rng.randrange(100, 300))
        there.set_broker_clock(0)
        there.wait_sent(load, 400)
        for first, last in there.timed_after(time.time_ns() // 1_000_000 + _YEAR_MS // 2):
            there.wait_stands(first, "ahead")
            there.order("freeze-time", "--to", str(last.offset), place=first)
        there.wait_progress(400)


# Poison


@scenario("an event on which the rules raise")
def _poison(act: Act) -> None:
    there = act.deployment
    poison = f"poison-{act.seed}"
    there.start("one", "two", odd={"poison": poison})
    with there.load(act.seed) as load:
        there.wait_sent(load, act.rng.randrange(200, 600))
        place = there.send_one(act.seed, rejected_as="quarantined", event_id=poison)
        there.wait_stands(place, "parked")
        there.wait_progress(200, [number for number in range(PARTITIONS) if number != place.partition])
        there.worker("one").kill()
        there.worker("one").start_again()
        there.wait_stands(place, "parked")
        assert there.folded()[place.partition] <= place.offset, "nobody folds past a parked record"
        there.order("quarantine", place=place)
        there.wait_progress(100, [place.partition])
    there.wait_owned()


# Disks and compaction


@scenario("a worker's disk is full")
def _full_disk(act: Act) -> None:
    there = act.deployment
    victim = there.worker("cramped")
    with _small_disk(victim.directory) as ballast:
        there.start("cramped", "two", static=True)
        with there.load(act.seed) as load:
            there.wait_sent(load, act.rng.randrange(200, 600))
            _fill(ballast)
            victim.kill()
            victim.start_again()
            code = victim.wait_exit()
            assert code in (EXIT_SURPRISE, EXIT_REFUSED), f"exit {code}: {victim.log()}"
            assert "space left" in victim.life_log(), f"it must say that there is no room: {victim.log()}"
            ballast.unlink()
            victim.start_again()
            there.wait_owned([victim])
            there.wait_sent(load, 300)
        found = there.differences()
        assert found == [], "the books after it"
    there.start("one", "two")


@contextmanager
def _small_disk(directory: Path) -> Iterator[Path]:
    """A file system of its own in `directory`; gives a file on it to fill it with. Raises Skipped."""
    directory.mkdir(parents=True, exist_ok=True)
    mounting = ["mount", "-t", "tmpfs", "-o", f"size={_DISK_MIB}m", "meterlog-faults", str(directory)]
    if not shutil.which("mount") or subprocess.run(mounting, capture_output=True, check=False).returncode != 0:
        message = "this user may not mount a small tmpfs"
        raise Skipped(message)
    try:
        yield directory / "ballast"
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


def _fill(ballast: Path) -> None:
    with ballast.open("wb") as file, suppress(OSError):
        while file.write(bytes(65_536)):
            file.flush()


@scenario("a worker is away until its deletions are compacted away", Site(kind="compacted"))
def _compacted(act: Act) -> None:
    """A day passes, by the log's time and the workers' clocks: its totals are closed, and their rows deleted."""
    there = act.deployment
    there.alter_topic(
        TOPIC, {"message.timestamp.type": "CreateTime", "message.timestamp.after.max.ms": str(2 * _YEAR_MS)}
    )
    for topic in ("accounts-changelog", "seen-changelog"):
        there.alter_topic(topic, _COMPACTS_AT_ONCE)
    clock = there.directory / "clock"
    clock.write_text("0")
    oddities = {"clock_file": str(clock), "state_age_max_s": 1}
    _, absent = there.start("one", "two", static=True, odd=oddities)
    with there.load(act.seed, kinds=_TIMELESS) as load:
        there.wait_sent(load, act.rng.randrange(600, 1_200))
        absent.stop()
        there.wait_owned([there.worker("one")])
        deleted = there.deleted_rows("accounts-changelog")
        clock.write_text("86400")
        there.advance_log_time(act.seed, time.time_ns() // 1_000_000 + 86_400_000)
        there.wait_until(
            lambda: there.deleted_rows("accounts-changelog") > deleted, "rows of the day that is over are deleted"
        )
        there.wait_until(lambda: not there.deleted_rows("accounts-changelog"), "compaction has taken the deletions")
        absent.start_again()
        there.wait_owned([absent])
        assert absent.told("tables.wiped"), "tables that may lack deletions are loaded anew"
        there.wait_sent(load, 200)

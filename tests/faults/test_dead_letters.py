"""Dead letters on the real broker: each reason listed, shown and replayed, and the equation true throughout."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console

from billing.catalog.builtin import BUILTIN_CATALOG
from billing.catalog.types import Catalog
from billing.facts import Reason
from billing.routing import partition_of
from runtime.dead_letters import Replayed, list_letters, replay_letters, show_letter
from runtime.errors import CommandError
from runtime.letters import Letter, LetterId, Selection
from runtime.replaying import run_replay
from tests.faults.books import Ledger, read_ledger, read_topic
from tests.faults.command import ROOT
from tests.faults.fold import Fold, fold
from tests.faults.killed_replay import APART
from tests.faults.load import KafkaDoor
from tests.faults.naive import Sent
from tests.faults.wire import BROKEN, Record, is_event, record_of
from tests.faults.worker_with_meter import CHANGED
from tests.waiting import wait_until

pytestmark = [pytest.mark.broker, pytest.mark.faults]

PARTITIONS = 4


def now_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass
class Deployment:
    """A fold, and a producer of its own."""

    fold: Fold
    door: KafkaDoor

    @property
    def servers(self) -> str:
        return self.fold.bootstrap_servers

    def misroute(self, count: int) -> list[Sent]:
        """Events on a partition that is not their own."""
        events = [self.door.events.first() for _ in range(count)]
        for event in events:
            home = partition_of(event.account.encode(), PARTITIONS)
            self.door.produce(record_of(event), (home + 1) % PARTITIONS)
        self.settle()
        return events

    def settle(self) -> None:
        self.door.finish()
        self.fold.wait_folded()

    def ledger(self) -> Ledger:
        found = read_ledger(read_topic(self.servers, "ledger"))
        assert found.problems == []
        return found

    def letters(self, reason: Reason | None = None) -> list[Letter]:
        return list_letters(self.servers, Selection(reason=reason), 10_000)[0]

    def replay(self, selection: Selection, catalog: Catalog = BUILTIN_CATALOG, **options: bool) -> Replayed:
        log_count = self.log_count()
        console = Console(file=io.StringIO())
        done = replay_letters(self.servers, selection, catalog, now_ms, console, **options)
        appended = 0 if done.dry_run else len(done.replayed)
        # A transaction's records show on one partition after the other, a moment after its commit has returned.
        wait_until(lambda: self.log_count() == log_count + appended, "what was replayed lies on the log")
        self.settle()
        return done

    def log_count(self) -> int:
        """Usage events on the log: ticks come when they like."""
        return sum(is_event(record.value) for record in read_topic(self.servers, "usage-events"))

    def assert_accounted_for(self) -> None:
        """accepted = counted + duplicate + rejected, from the log and the ledger alone."""
        ledger = self.ledger()
        told = ledger.counted.total() + ledger.duplicate_count + ledger.rejected.total()
        assert told == self.log_count()


MakeDeployment = Callable[[], Deployment]


@pytest.fixture
def deployment(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Deployment]:
    with fold(tmp_path) as made:
        made.start()
        yield Deployment(made, KafkaDoor(made.bootstrap_servers, request.node.name, time.time_ns() // 1_000, 1_000))


def test_each_reason_is_listed_shown_and_replayed_or_left_out_with_the_reason(deployment: Deployment) -> None:
    """One deployment for all of it: a broker and a worker take 8 seconds to start."""
    refused = deployment.door.model.broken
    for kind in BROKEN:
        if BROKEN[kind][1](deployment.door.events.first()).key is not None:
            deployment.door.send_broken(kind)
    good = deployment.door.events.first()
    deployment.door.send(good)
    deployment.door.finish()
    deployment.door.send_conflict(good)
    events = deployment.misroute(3)
    soon = deployment.door.events.first()._replace(occurred_at_us=(now_ms() + 301_500) * 1_000)
    deployment.door.produce(record_of(soon))
    deployment.settle()

    letters = deployment.letters()
    assert Counter(letter.letter.reason for letter in letters) == refused + Counter(misrouted=3, in_future=1)
    for letter in letters:
        found = show_letter(deployment.servers, letter.id, BUILTIN_CATALOG, now_ms())
        assert found["what_to_do"]
        assert found["record"]["kind"] == ("unreadable" if letter.letter.reason == "unreadable" else "usage event")
        assert found["if_replayed_now"]["message"]

    planned = deployment.replay(Selection(reason=Reason.MISROUTED), dry_run=True).replayed
    homes = {letter.id: partition_of(letter.letter.key or b"", PARTITIONS) for letter in letters}
    assert [where for _, where in planned] == [homes[letter_id] for letter_id, _ in planned]
    assert deployment.ledger().counted.total() == 1, "a dry run does nothing"
    done = deployment.replay(Selection(reason=Reason.MISROUTED))
    assert (len(done.replayed), done.already, done.left_out) == (3, [], [])
    ledger = deployment.ledger()
    assert [ledger.counted[event.id] for event in events] == [1, 1, 1]
    assert ledger.rejected["misrouted"] == 3, "what was refused stays refused"
    assert all(letter.replayed_to is not None for letter in deployment.letters(Reason.MISROUTED))
    deployment.assert_accounted_for()

    done = deployment.replay(Selection(reason=Reason.MISROUTED))
    assert (done.replayed, len(done.already)) == ([], 3), "a second replay finds nothing to do"
    deployment.replay(Selection(reason=Reason.MISROUTED), again=True)
    ledger = deployment.ledger()
    assert (ledger.counted[events[0].id], ledger.duplicate_count) == (1, 3), "and one that is made to is a duplicate"

    for reason in sorted(refused.keys() - {"in_future"}):
        done = deployment.replay(Selection(reason=Reason(reason)))
        assert (done.replayed, len(done.left_out)) == ([], refused[reason]), reason
        assert all(message.startswith(reason) for _, message in done.left_out)

    def its_time_has_come() -> bool:
        return now_ms() + 300_000 > soon.occurred_at_us // 1_000

    wait_until(its_time_has_come, "an event's time has come")
    done = deployment.replay(Selection(reason=Reason.IN_FUTURE))
    assert (len(done.replayed), len(done.left_out)) == (1, refused["in_future"])
    assert deployment.ledger().counted[soon.id] == 1
    deployment.assert_accounted_for()
    deployment.fold.stop()
    again = run_replay(deployment.servers, BUILTIN_CATALOG, None, Console(file=io.StringIO()))
    assert [line.difference for line in again] == [None] * PARTITIONS
    assert sum(line.records for line in again) == len(deployment.ledger().sources)
    assert sum(line.totals for line in again)


def test_letters_count_after_a_change_of_the_catalog_and_the_ledger_has_whole_what_a_letter_cuts(
    deployment: Deployment,
) -> None:
    door = deployment.door
    kilograms, custom = (
        Sent("acme", "ann", f"e-{meter}", time.time_ns() // 1_000, "2.5", meter) for meter in ("kilograms", "custom1")
    )
    door.produce(record_of(kilograms))
    door.produce(record_of(custom))
    packing = KafkaDoor(
        deployment.servers, "x", 0, 1_000, **{"compression.codec": "gzip", "message.max.bytes": "10000000"}
    )
    packing.produce(Record(b"acme/ann", b"\0" * 5_000_000))
    packing.finish()
    deployment.settle()
    (cut,) = deployment.letters(Reason.UNREADABLE)
    assert cut.letter.is_cut
    found = show_letter(deployment.servers, cut.id, BUILTIN_CATALOG, now_ms())
    assert found["record"]["size_bytes"] == 5_000_000

    assert len(deployment.replay(Selection(org=kilograms.org)).left_out) >= 1
    deployment.fold.stop()
    deployment.fold.start((sys.executable, "-m", "tests.faults.worker_with_meter"))
    for reason in (Reason.UNKNOWN_METER, Reason.METER_NOT_ENABLED):
        done = deployment.replay(Selection(reason=reason), CHANGED)
        assert (len(done.replayed), done.left_out) == (1, [])
    ledger = deployment.ledger()
    assert (ledger.counted[kilograms.id], ledger.counted[custom.id]) == (1, 1)
    assert (ledger.rejected["unknown_meter"], ledger.rejected["meter_not_enabled"]) == (1, 1)
    with pytest.raises(CommandError, match="no dead letter lies at 0/999999"):
        deployment.replay(Selection(ids=(LetterId(None, 0, 999_999), cut.id)))


@pytest.mark.parametrize(
    ("fault", "counts"), [("none", True), ("to the partition where it lay", False)], ids=["sound", "planted"]
)
def test_a_replay_to_the_wrong_partition_is_found(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch, fault: str, counts: bool
) -> None:
    if fault != "none":
        monkeypatch.setattr("runtime.dead_letters.home_of", lambda _, letter, __: letter.partition)
    (event,) = deployment.misroute(1)
    deployment.replay(Selection(reason=Reason.MISROUTED))
    ledger = deployment.ledger()
    assert (ledger.counted[event.id] == 1) is counts
    assert ledger.rejected["misrouted"] == (1 if counts else 2)


@pytest.mark.parametrize(("fault", "lies"), [("none", False), (APART, True)], ids=["sound", "planted"])
def test_a_replay_that_was_killed_was_never_begun(deployment: Deployment, fault: str, lies: bool) -> None:
    """A letter whose record lies on the log again says so. With the fault planted it does not, and is replayed twice."""
    deployment.misroute(2)
    command = [sys.executable, "-m", "tests.faults.killed_replay", fault, deployment.servers]
    killed = subprocess.run(command, cwd=ROOT, check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert all(letter.replayed_to is None for letter in deployment.letters())
    done = deployment.replay(Selection(reason=Reason.MISROUTED))
    assert len(done.replayed) == 2
    ledger = deployment.ledger()
    assert (ledger.counted.total(), ledger.duplicate_count) == (2, 2 if lies else 0)

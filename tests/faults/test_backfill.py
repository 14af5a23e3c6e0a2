"""History by its own lane, while the forwarder, the fold and the broker die: each event counts once, and is told once.

FAULTS_SEED=… pytest tests/faults/test_backfill.py        a run again
"""

from __future__ import annotations

import os
import random
import secrets
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from runtime.embedded.kafka import EmbeddedKafka
from tests.faults.books import read_topic
from tests.faults.fold import Fold
from tests.faults.forwarder import BackfillDoor, Forwarder
from tests.faults.load import KafkaDoor
from tests.faults.naive import Model
from tests.faults.wire import Record
from tests.waiting import wait_until

pytestmark = [pytest.mark.broker, pytest.mark.faults]

SEED = os.environ.get("FAULTS_SEED") or secrets.token_hex(4)
_ROUNDS = 4
_HISTORY_A_ROUND = 1_500
_WINDOW = 200


class World(NamedTuple):
    kafka: EmbeddedKafka
    fold: Fold
    forwarder: Forwarder
    history: BackfillDoor
    live: KafkaDoor

    def model(self) -> Model:
        """What both lanes were given."""
        whole = Model()
        whole += self.history.model
        whole += self.live.model
        return whole

    def on_log(self) -> int:
        return len(read_topic(self.kafka.bootstrap_servers, "usage-events"))

    def assert_books(self) -> None:
        self.history.finish()
        self.live.finish()
        self.forwarder.wait_forwarded()
        self.fold.wait_folded()
        assert self.fold.differences(self.model()) == []


@contextmanager
def world(directory: Path) -> Iterator[World]:
    """A broker with stock limits for records, a worker and a forwarder, none of them started."""
    print(f"FAULTS_SEED={SEED}")  # noqa: T201  pytest shows it with a failure
    with EmbeddedKafka(directory / "kafka", overrides={"message.max.bytes": 1_048_588}) as kafka:
        servers, now_us = kafka.bootstrap_servers, time.time_ns() // 1_000
        fold, forwarder = Fold(servers, directory), Forwarder(servers, directory, _WINDOW)
        history = BackfillDoor(servers, f"{SEED}/history", now_us, 1_000)
        try:
            yield World(kafka, fold, forwarder, history, KafkaDoor(servers, f"{SEED}/live", now_us, 1_000))
        finally:
            forwarder.close()
            fold.close()


def send(door: KafkaDoor, count: int) -> None:
    """Good events and repeats of them; what is broken would be refused once for each time that it is forwarded."""
    for _ in range(count):
        door.send(door.events.next())


@pytest.mark.timeout(300)
def test_killed_at_random_moments_every_event_counts_once(tmp_path: Path) -> None:
    rng = random.Random(SEED)
    with world(tmp_path) as running:
        running.fold.start()
        for number in range(_ROUNDS):
            running.forwarder.start()
            send(running.history, _HISTORY_A_ROUND)
            running.history.finish()
            before, more = running.on_log(), rng.randrange(1, _HISTORY_A_ROUND)
            send(running.live, 50)
            wait_until(lambda: running.on_log() >= before + more, "some of it was forwarded", 60)  # noqa: B023
            running.forwarder.kill()
            if number == 1:
                running.fold.kill()
                running.fold.start()
        running.forwarder.start()
        running.assert_books()


def test_a_broker_that_dies_delays_it_and_no_more(tmp_path: Path) -> None:
    with world(tmp_path) as running:
        running.fold.start()
        running.forwarder.start()
        send(running.history, 4_000)
        running.history.finish()
        wait_until(lambda: running.on_log() > 500, "some of it was forwarded", 60)
        running.kafka.kill()
        running.kafka.restart()

        def start_again() -> None:
            if not running.fold.is_alive:  # a transaction that outlived its time ends the worker, as it must
                running.fold.start()

        running.forwarder.wait_forwarded(start_again)
        running.assert_books()


def test_without_a_broker_it_still_ends_when_asked(tmp_path: Path) -> None:
    with world(tmp_path) as running:
        genesis = running.on_log()
        running.forwarder.start()
        send(running.history, 2_000)
        running.history.finish()
        wait_until(lambda: running.on_log() > genesis, "it appends", 60)
        running.kafka.kill()
        running.forwarder.stop()


def test_a_fold_that_stands_is_not_flooded(tmp_path: Path) -> None:
    """Not even by a forwarder that dies again and again meanwhile."""
    with world(tmp_path) as running:
        send(running.history, 4_000)
        running.history.finish()
        genesis = running.on_log()
        for _ in range(2):
            running.forwarder.start()
            # Nothing happened for as long as it takes to be assigned and to append: told by its own log.
            seen = running.forwarder.log().count("forwarder.assigned")
            wait_until(lambda: running.forwarder.log().count("forwarder.assigned") > seen, "it has lanes", 60)  # noqa: B023
            wait_until(lambda: running.on_log() > genesis, "it appends", 60)
            running.forwarder.kill()
        assert running.on_log() <= genesis + 4 * _WINDOW
        running.fold.start()
        running.forwarder.start()
        running.assert_books()


def killed_while_appending(running: World, fault: str) -> None:
    """A forwarder with `fault` that dies right after its first append, and then a sound one."""
    running.fold.start()
    send(running.history, 300)
    running.history.finish()
    running.forwarder.start((sys.executable, "-m", "tests.faults.broken_forwarder", fault))
    assert running.forwarder.wait_exit() == -signal.SIGKILL, running.forwarder.log()
    running.forwarder.start()
    running.forwarder.wait_forwarded()
    running.fold.wait_folded()


def test_a_place_noted_before_the_log_has_it_loses_events_and_is_found(tmp_path: Path) -> None:
    with world(tmp_path) as running:
        killed_while_appending(running, "noted before the log has it")
        found = running.fold.differences(running.model())
    assert any(line.startswith("log:") and "are not on it" in line for line in found), found


def test_the_sound_forwarder_killed_at_the_same_place_passes(tmp_path: Path) -> None:
    with world(tmp_path) as running:
        killed_while_appending(running, "none")
        assert running.fold.differences(running.model()) == []


def test_a_record_that_the_log_does_not_take_is_listed_and_stops_nothing(tmp_path: Path) -> None:
    """Packed it is small, so the topic takes it; what is not packed so well is not taken."""
    with world(tmp_path) as running:
        running.fold.start()
        running.forwarder.start()
        packing = BackfillDoor(
            running.kafka.bootstrap_servers,
            f"{SEED}/packing",
            time.time_ns() // 1_000,
            1_000,
            **{"compression.type": "zstd", "message.max.bytes": 100 << 20},
        )
        send(packing, 20)
        packing.produce(Record(b"acme/ann", _packs_with_zstd_alone()))
        packing.model.send_broken("unreadable")
        send(packing, 20)
        packing.finish()
        running.forwarder.wait_forwarded()
        running.fold.wait_folded()
        assert running.fold.differences(packing.model) == []
        assert "forwarder.record_cut" in running.forwarder.log()


def _packs_with_zstd_alone() -> bytes:
    """Random bytes that come again far behind: beyond the reach of lz4's window, within zstd's."""
    block = random.Random(1).randbytes(700_000)
    return block * 4

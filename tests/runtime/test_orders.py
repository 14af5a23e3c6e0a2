"""The operator's commands: an order lies signed where it works, and one that cannot work is refused with what to do."""

from __future__ import annotations

import json
import re
import secrets
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from typer.testing import CliRunner

from billing.behaviours import BEHAVIOURS
from billing.catalog.builtin import BUILTIN_CATALOG
from billing.errors import RecordCrashed, TimeJumped
from billing.facts import BehaviourSwitched, EventRejected, Fact, OrderApplied, OrderHonoured
from billing.records import UsageEvent
from billing.routing import partition_of
from runtime import cli, orders
from runtime.embedded.kafka import EmbeddedKafka
from runtime.errors import CommandError
from runtime.logs import read
from runtime.orders import Given, Operator
from runtime.processes import now_ms
from runtime.settings import Settings
from runtime.topics import create_topics, operator_key, public_bytes
from schemas.codec import encode
from schemas.ledger import LedgerReader
from schemas.topics import FOLD_GROUP, USAGE_EVENTS
from streams.port import Stop, StopKind
from streams.standing import note_of, stop_ahead, stop_before
from streams.usage import UsageFold
from tests.streams.memory_store import MemoryStore
from tests.streams.test_standing import POISONED, crashing
from tests.streams.test_usage import OnLog

PARTITIONS = 3
HOME = partition_of(POISONED.encode(), PARTITIONS)
NOW_MS = 1_763_712_000_000


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """A deployment on a broker of its own: its operator has a key, and each partition an event of the poisoned account."""
    folder = tmp_path_factory.mktemp("orders")
    with EmbeddedKafka(folder / "kafka") as kafka:
        made = Settings(bootstrap_servers=kafka.bootstrap_servers, data_dir=folder)
        create_topics(kafka.bootstrap_servers, PARTITIONS, 1, public_bytes(operator_key(made.operator_key_path)))
        yield made


@pytest.fixture
def bad(settings: Settings) -> int:
    """The offset of a new event of the poisoned account, at its home's end."""
    return append(settings, HOME)


def append(settings: Settings, partition: int) -> int:
    places: list[int] = []
    producer = Producer({"bootstrap.servers": settings.bootstrap_servers})
    event = UsageEvent(secrets.token_hex(8), now_ms() * 1_000, "poison", meter="calls")
    producer.produce(
        USAGE_EVENTS, encode(event), POISONED.encode(), partition, on_delivery=lambda _, m: places.append(m.offset())
    )
    producer.flush(15)
    return places[0]


def operator(settings: Settings, issued_at_ms: int = NOW_MS) -> Operator:
    return Operator(settings, issued_at_ms)


def commit(settings: Settings, partition: int, next_offset: int) -> None:
    """As the fold tells lag tools how far it is."""
    consumer = Consumer({"bootstrap.servers": settings.bootstrap_servers, "group.id": FOLD_GROUP})
    consumer.commit(offsets=[TopicPartition(USAGE_EVENTS, partition, next_offset)], asynchronous=False)
    consumer.close()


class Folded:
    """A partition of the real log, folded by rules that an event of the poisoned account crashes."""

    def __init__(self, settings: Settings, partition: int = HOME) -> None:
        log = [
            OnLog(record.offset, record.key, record.value, record.append_ms)
            for record in read(settings.bootstrap_servers, USAGE_EVENTS, partition)
        ]
        fold = UsageFold(BUILTIN_CATALOG, {**crashing(), 2: BEHAVIOURS[1]}).open(partition, MemoryStore())
        while rest := [record for record in log if record.offset >= (fold.next_offset or 0)]:
            stop = fold.stop
            if stop is not None and not any(fold.hear(record) for record in rest if record.offset > stop.offset):
                break
            fold.fold(rest, rest[-1].timestamp)
        self.stop = fold.stop
        reader = LedgerReader()
        told = [*reader.feed(value for _, value in fold.take().ledger), *reader.flush()]
        self.facts: dict[int, tuple[Fact, ...]] = {record.position.offset: record.facts for record in told}


def test_a_record_a_partition_stands_before_is_set_aside(settings: Settings, bad: int) -> None:
    given = operator(settings).quarantine_record(HOME, bad)
    assert given.kind == "quarantine_record"
    folded = Folded(settings)
    assert folded.stop is None
    honoured, rejected = folded.facts[bad]
    assert isinstance(honoured, OrderHonoured)
    assert (HOME, honoured.offset) == given.places[0]
    assert isinstance(rejected, EventRejected)


def test_an_account_is_set_aside_where_its_partition_stands_and_released(settings: Settings, bad: int) -> None:
    given = operator(settings, NOW_MS).quarantine_account(POISONED, HOME, bad)
    assert given.places[0][0] == HOME
    folded = Folded(settings)
    assert folded.stop is None
    assert isinstance(folded.facts[bad][0], OrderHonoured)
    (_, offset), *_ = operator(settings, NOW_MS + 1).release(POISONED).places
    assert isinstance(Folded(settings).facts[offset][0], OrderApplied)
    (_, offset), *_ = operator(settings, NOW_MS + 2).quarantine_account(POISONED).places
    assert isinstance(Folded(settings).facts[offset][0], OrderApplied)
    operator(settings, NOW_MS + 3).release(POISONED)


def test_time_is_frozen_up_to_the_logs_end(settings: Settings, bad: int) -> None:
    given = operator(settings).freeze_time(HOME, bad)
    assert given.kind == "time"
    operator(settings).quarantine_record(HOME, bad)
    honoured = Folded(settings).facts[bad][0]
    assert isinstance(honoured, OrderHonoured)
    stop = Folded(settings).stop
    assert stop is None or stop.offset > bad


def test_all_partitions_are_switched_at_once(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orders, "BEHAVIOURS", {1: BEHAVIOURS[1], 2: BEHAVIOURS[1]})
    places = operator(settings).switch_behaviour(2).places
    assert [partition for partition, _ in places] == list(range(PARTITIONS))
    for partition in {0, 1, 2} - {HOME}:
        offset = dict(places)[partition]
        assert Folded(settings, partition).facts[offset] == (BehaviourSwitched(2),)


def test_an_order_that_cannot_work_is_refused(settings: Settings, bad: int) -> None:
    given = operator(settings)
    other = (HOME + 1) % PARTITIONS
    refused: dict[str, Callable[[], Given]] = {
        f"there is no partition {PARTITIONS}": lambda: given.quarantine_record(PARTITIONS, 0),
        f"has no offset {bad + 1_000}": lambda: given.resume(HOME, bad + 1_000),
        "lies before --offset": lambda: given.freeze_time(HOME, bad, bad - 1),
        "--account: .* org/customer": lambda: given.quarantine_account("nobody"),
        f"lies on partition {HOME}": lambda: given.quarantine_account(POISONED, other, 0),
        "does not know behaviour version 99": lambda: given.switch_behaviour(99),
    }
    for said, give in refused.items():
        with pytest.raises(CommandError, match=said):
            give()
    log = read(settings.bootstrap_servers, USAGE_EVENTS, HOME, bad + 1)
    assert list(log) == [], "nothing was put behind it"


def test_an_order_about_what_is_folded_is_refused_and_one_ahead_of_the_fold_warns(settings: Settings) -> None:
    partition = (HOME + 1) % PARTITIONS
    first, second = append(settings, partition), append(settings, partition)
    commit(settings, partition, first)
    assert operator(settings).resume(partition, first).warnings == ()
    (warning,) = operator(settings).resume(partition, second).warnings
    assert f"before offset {first}" in warning
    commit(settings, partition, second)
    with pytest.raises(CommandError, match=f"offset {first} of partition {partition} is folded already"):
        operator(settings).resume(partition, first)


def test_without_the_operators_key_nothing_is_ordered(settings: Settings, tmp_path: Path) -> None:
    elsewhere = Settings(bootstrap_servers=settings.bootstrap_servers, data_dir=tmp_path)
    with pytest.raises(CommandError, match="METERLOG_OPERATOR_KEY_FILE"):
        operator(elsewhere)
    assert not elsewhere.operator_key_path.exists(), "a key made now would be worth nothing"
    operator_key(elsewhere.operator_key_path)
    with pytest.raises(CommandError, match="another operator's key"):
        operator(elsewhere).release(POISONED)


def test_the_command_says_where_its_order_lies(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METERLOG_BOOTSTRAP_SERVERS", settings.bootstrap_servers)
    monkeypatch.setenv("METERLOG_DATA_DIR", str(settings.data_dir))
    ran = CliRunner().invoke(cli.app, ["release", "--account", POISONED, "--json"])
    said = json.loads(ran.stdout)
    assert said["order"] == "release_account"
    assert said["records"][0]["partition"] == HOME


# What a stop names can be typed as it stands

RECORD = OnLog(17, b"acme/it's me", b"", NOW_MS)
STOPS = [
    stop_ahead(2, RECORD),
    stop_before(2, RECORD, TimeJumped("it jumped")),
    stop_before(2, RECORD, RecordCrashed(ValueError("x"), half_applied=False)),
    stop_before(2, OnLog(17, None, b"", NOW_MS), RecordCrashed(ValueError("x"), half_applied=False)),
]


class Typed:
    """Notes what would be ordered."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *args: self.calls.append((name, *args))


@pytest.mark.parametrize("stop", STOPS, ids=["ahead", "jump", "crash", "crash of a tick"])
def test_the_commands_that_a_stop_names_can_be_typed(stop: Stop, monkeypatch: pytest.MonkeyPatch) -> None:
    typed = Typed()
    monkeypatch.setattr(cli, "_operator", lambda _: typed)
    monkeypatch.setattr(cli, "_print_order", lambda *_, **__: None)
    commands = re.findall(r"meterlog ([^;]+?)(?=;|$)", stop.message)
    for command in commands:
        ran = CliRunner().invoke(cli.app, shlex.split(command))
        assert ran.exit_code == 0, ran.output
    account = "ORG/CUSTOMER" if "ORG/CUSTOMER" in stop.message else "acme/it's me"
    expected: dict[str, tuple[Any, ...]] = {
        "freeze_time": ("freeze_time", 2, 17, None),
        "resume": ("resume", 2, 17),
        "quarantine_record": ("quarantine_record", 2, 17),
        "quarantine_account": ("quarantine_account", account, 2, 17),
    }
    assert typed.calls == [expected[name] for name, *_ in typed.calls]
    assert len(typed.calls) == (1 if stop.kind is StopKind.AHEAD else 2 if "jumped" in stop.message else 3)


def test_what_everybody_may_read_names_no_customer() -> None:
    """The API's health is shown without a key; a rule's error may quote what the event holds."""
    record = OnLog(17, b"acme/ann@example.com", b"", NOW_MS)
    stop = stop_before(2, record, RecordCrashed(ValueError("ann@example.com: 7"), half_applied=False))
    assert "ann@example.com: 7" in stop.message
    assert "--account acme/ann@example.com" in stop.message
    note = note_of(2, stop)
    assert "example.com" not in note
    assert note.startswith("stands at offset 17 (parked): a rule raised ValueError (the worker's log says more); ")
    assert "meterlog quarantine --partition 2 --offset 17; " in note

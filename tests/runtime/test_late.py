"""Late usage from a file to the ledger: sent, listed, decided by a person, each once."""

from __future__ import annotations

import io
import json
import os
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from billing.catalog.builtin import BUILTIN_CATALOG
from billing.records import Position, UsageEvent
from billing.state import Late, LateKey
from runtime import late
from runtime.audit import Audit, UsageKey, audit_partition
from runtime.embedded.kafka import EmbeddedKafka
from runtime.errors import CommandError
from runtime.late import Decided, Signer, Waiting, choose, decide_waiting, late_way, list_waiting, print_waiting
from runtime.launch import spawn
from runtime.logs import LogRecord, range_of, read
from runtime.send import BACKFILL, LIVE, Sent, Way, send_file
from runtime.settings import Settings
from runtime.topics import create_topics, operator_key, public_bytes
from schemas.rows import LATE
from schemas.topics import LEDGER, USAGE_EVENTS
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
PARTITIONS = 2


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def days_ago(days: float) -> str:
    return (datetime.now(UTC) - timedelta(days=days)).isoformat()


def event(event_id: str, days: float, **fields: Any) -> dict[str, Any]:
    usual = {"event_id": event_id, "occurred_at": days_ago(days), "customer_id": "ann", "meter": "calls"}
    return usual | fields


def send(path: Path, events: list[dict[str, Any]], servers: str, way: Way) -> tuple[Sent, str]:
    path.write_text("".join(json.dumps(each) + "\n" for each in events))
    stderr = io.StringIO()
    sent = send_file(str(path), "acme", servers, now_ms, Console(file=stderr, width=1_000), way=way)
    return sent, stderr.getvalue()


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """A broker and a worker."""
    folder = tmp_path_factory.mktemp("late")
    with EmbeddedKafka(folder / "kafka") as kafka:
        settings = Settings(
            bootstrap_servers=kafka.bootstrap_servers, data_dir=folder, partitions=PARTITIONS, replication=1
        )
        public_key = public_bytes(operator_key(settings.operator_key_path))
        create_topics(kafka.bootstrap_servers, PARTITIONS, 1, public_key)
        environment = {
            **os.environ,
            "METERLOG_BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
            "METERLOG_DATA_DIR": str(folder),
            "METERLOG_PARTITIONS": str(PARTITIONS),
            "METERLOG_REPLICATION": "1",
        }
        argv = [sys.executable, "-m", "runtime", "worker"]
        worker = spawn(argv, log_file=folder / "worker.log", env=environment, cwd=ROOT)
        try:
            wait_until(lambda: range_of(kafka.bootstrap_servers, LEDGER, 0).end > 0, "the genesis is folded", 120)
            yield settings
        finally:
            worker.terminate()
            worker.wait(60)


@pytest.mark.broker
def test_late_usage_goes_from_a_file_to_the_ledger(deployment: Settings, tmp_path: Path) -> None:
    servers = deployment.bootstrap_servers
    way = late_way(deployment, now_ms)
    sent, said = send(
        tmp_path / "late.ndjson",
        [event("a", 50, quantity="2.5"), event("b", 60), event("young", 3), event("bad", 50, quantity="-1")],
        servers,
        way,
    )
    assert sent == Sent(2, 2, 0)
    assert "line 3: occurred_at: is not older than 34 days; send it without --late" in said
    assert "line 4: quantity" in said

    wait_until(lambda: len(list_waiting(deployment, "acme")) == 2, "both wait", 60)
    waiting = list_waiting(deployment, None)
    assert [(row.event_id, row.account, row.quantity) for row in waiting] == [
        ("b", "acme/ann", "1"),
        ("a", "acme/ann", "2.5"),
    ]
    assert list_waiting(deployment, "globex") == []

    a = choose(waiting, ["a"], None, every=False, approve=True)
    assert decide_waiting(deployment, a, now_ms, approve=True) == Decided(1, (), 0)
    b = choose(waiting, [], "ann", every=True, approve=False)
    decided = decide_waiting(deployment, b, now_ms, approve=False)
    assert (decided.decided, decided.pending) == (1, 0)
    assert decided.refused == ("acme/ann: stale: the late event 'a' was approved before",)
    wait_until(lambda: list_waiting(deployment, None) == [], "nothing waits", 60)

    audit = Audit()
    for partition in range(PARTITIONS):
        held = range_of(servers, USAGE_EVENTS, partition)
        log, ledger = read(servers, USAGE_EVENTS, partition), read(servers, LEDGER, partition)
        audit_partition(audit, BUILTIN_CATALOG, partition, log, ledger, held)
    assert audit.holds
    assert (audit.sum_of("approved"), audit.sum_of("counted")) == (1, 0)
    assert audit.usage[UsageKey("acme/ann", "calls")].quantity_nano == 2_500_000_000


@pytest.mark.broker
def test_anothers_key_signs_nothing(deployment: Settings, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="METERLOG_OPERATOR_KEY_FILE"):
        Signer(deployment.model_copy(update={"operator_key_file": tmp_path / "made-anew.key"}), now_ms)


@pytest.mark.parametrize("way", [LIVE, BACKFILL], ids=["live", "backfill"])
def test_the_other_doors_name_the_late_one(way: Way) -> None:
    bad = way.refusal(UsageEvent("e", 0, "c", "calls"), now_ms())
    assert bad is not None
    assert "--late" in bad.message


def row(event_id: str, account: str = "acme/ann", counted_at: int | None = None, incarnation: int = 1) -> Waiting:
    return Waiting(
        account, event_id, "2026-01-01T00:00:00+00:00", "calls", "1", 0, 7, counted_at, counted_incarnation=incarnation
    )


ROWS = [row("a"), row("b"), row("b", "acme/bob"), row("c", counted_at=3)]


@pytest.mark.parametrize(
    ("ids", "customer", "every", "approve", "chosen"),
    [
        pytest.param(["a"], None, False, True, [0], id="by id"),
        pytest.param(["b"], "bob", False, True, [2], id="one customer's"),
        pytest.param([], None, True, True, [0, 1, 2], id="all, but what was counted before"),
        pytest.param([], None, True, False, [0, 1, 2, 3], id="all are rejected"),
        pytest.param(["c"], None, False, False, [3], id="what was counted before is rejected"),
    ],
)
def test_a_person_names_what_is_decided(
    ids: list[str], customer: str | None, every: bool, approve: bool, chosen: list[int]
) -> None:
    assert choose(ROWS, ids, customer, every=every, approve=approve) == [ROWS[index] for index in chosen]


@pytest.mark.parametrize(
    ("ids", "every", "says"),
    [
        pytest.param([], False, "--all", id="nothing"),
        pytest.param(["a"], True, "--all", id="both"),
        pytest.param(["z"], False, "no late event of this id waits", id="an id that does not wait"),
        pytest.param(["b"], False, "acme/ann, acme/bob.*--customer", id="an id of two customers"),
        pytest.param(["c"], False, "was counted before, at 0/3", id="an id that was counted before"),
    ],
)
def test_what_is_not_clear_is_refused(ids: list[str], every: bool, says: str) -> None:
    with pytest.raises(CommandError, match=says):
        choose(ROWS, ids, None, every=every, approve=True)


def test_what_waits_is_a_table_or_json(capsys: pytest.CaptureFixture[str]) -> None:
    print_waiting(ROWS, as_json=False)
    assert "acme/bob" in capsys.readouterr().out
    print_waiting(ROWS, as_json=True)
    assert json.loads(capsys.readouterr().out)[3]["counted_at"] == 3


def test_a_record_of_a_log_that_was_made_anew_is_named_with_its_incarnation(monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies in a row is the record's ordinal, 281474976710656 and more from the second log on: no offset."""
    again, waits = Position(2, 0, 9), UsageEvent("e", 0, "ann", "calls")
    row_value = LATE.encode_row(Late(again.ordinal, b"", waits))
    changelog = [LogRecord(0, LATE.encode_key(LateKey("acme/ann", "e")), row_value, 0)]
    monkeypatch.setattr(late, "partitions_of", lambda *_: 1)
    monkeypatch.setattr(late, "read", lambda *_: (record for record in changelog))
    monkeypatch.setattr(late, "_counted_before", lambda *_: {("acme/ann", "e"): Position(2, 0, 4)})
    [found] = list_waiting(Settings(bootstrap_servers="nowhere"), None)
    assert (found.received_incarnation, found.received_offset) == (2, 9)
    with pytest.raises(CommandError, match="was counted before, at 2/0/4;"):
        choose([found], ["e"], None, every=False, approve=True)

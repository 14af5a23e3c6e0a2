"""`meterlog events send`: files to the log, and each line that is no event named."""

from __future__ import annotations

import csv
import gzip
import io
import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from billing.routing import partition_of
from runtime.embedded.kafka import EmbeddedKafka
from runtime.errors import CommandError
from runtime.event_files import open_events
from runtime.send import BACKFILL, Sent, print_sent, send_file
from runtime.topics import create_topics
from schemas.topics import USAGE_BACKFILL
from tests.api.process import PARTITIONS, on_topic

Send = Callable[..., tuple[Sent, str]]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with EmbeddedKafka(tmp_path_factory.mktemp("send-kafka")) as kafka:
        create_topics(kafka.bootstrap_servers, PARTITIONS, 1, b"k" * 32)
        yield kafka.bootstrap_servers


@pytest.fixture
def org(request: pytest.FixtureRequest) -> str:
    """An organisation of the test's own."""
    return f"org-{abs(hash(request.node.nodeid)):x}"[:60]


@pytest.fixture
def send(servers: str, org: str) -> Send:
    def run(path: Path, **options: Any) -> tuple[Sent, str]:
        stderr = io.StringIO()
        console = Console(file=stderr, width=1_000)
        sent = send_file(str(path), org, servers, lambda: time.time_ns() // 1_000_000, console, **options)
        return sent, stderr.getvalue()

    return run


def ago(**span: float) -> str:
    return (datetime.now(UTC) - timedelta(**span)).isoformat()


def event(event_id: str, **fields: Any) -> dict[str, Any]:
    return {"event_id": event_id, "occurred_at": ago(), "customer_id": f"c{event_id}", "meter": "calls", **fields}


def ndjson(*events: Any) -> bytes:
    return b"".join(json.dumps(each).encode() + b"\n" for each in events)


def as_csv(rows: list[dict[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param("usage.ndjson", ndjson(event("1"), event("2")), id="a JSON object a line"),
        pytest.param("usage.jsonl", ndjson(event("1")) + b"\n  \n" + ndjson(event("2")), id="empty lines are no lines"),
        pytest.param("usage.ndjson", ndjson(event("1"), event("2"))[:-1], id="the last line needs no end"),
        pytest.param("usage.ndjson.gz", gzip.compress(ndjson(event("1"), event("2"))), id="packed"),
        pytest.param("usage.csv", as_csv([event("1"), event("2")]), id="CSV"),
        pytest.param(
            "usage.csv", b"\xef\xbb\xbf" + as_csv([event("1"), event("2")]), id="CSV as spreadsheets write it"
        ),
        pytest.param("usage.csv.gz", gzip.compress(as_csv([event("1"), event("2")])), id="packed CSV"),
    ],
)
def test_each_kind_of_file_arrives(
    send: Send, servers: str, org: str, tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    sent, said = send(tmp_path / name)
    assert (sent, sent.complete) == (Sent(2, 0, 0), True)
    found = on_topic(servers, org)
    assert sorted(each.event_id for _, each in found) == ["1", "2"]
    for partition, each in found:
        assert partition == partition_of(f"{org}/{each.customer_id}".encode(), PARTITIONS)
    assert "line" not in said


def test_each_bad_line_is_named_with_its_field(send: Send, servers: str, org: str, tmp_path: Path) -> None:
    lines = [
        event("1"),
        event("2", quantity="-1"),
        event("3", colour="red"),
        event("4", occurred_at="2026-11-21T13:20:00"),
        event("5", occurred_at=ago(days=70)),
        event("6", occurred_at=ago(minutes=-10)),
        event("7", quantity=float("nan")),
        [],
        event("9"),
    ]
    file = tmp_path / "usage.ndjson"
    file.write_bytes(
        ndjson(*lines) + b'{"event_id": \n\n' + ndjson(event("12")) + b"x" * 2_000_000 + b"\n" + ndjson(event("14"))
    )
    sent, said = send(file)
    assert (sent, sent.complete) == (Sent(4, 9, 0), False)
    assert [line.split(":")[:2] for line in said.splitlines() if line.startswith("line ")] == [
        ["line 2", " quantity"],
        ["line 3", " colour"],
        ["line 4", " occurred_at"],
        ["line 5", " occurred_at"],
        ["line 6", " occurred_at"],
        ["line 7", " quantity"],
        ["line 8", " event"],
        ["line 10", " is not complete JSON"],
        ["line 13", " is longer than 1048576 bytes"],
    ]
    assert sorted(each.event_id for _, each in on_topic(servers, org)) == ["1", "12", "14", "9"]


def test_each_bad_row_is_named_with_its_column(send: Send, tmp_path: Path) -> None:
    file = tmp_path / "usage.csv"
    good = f"1,{ago()},c,calls,1,eu\n"
    file.write_bytes(
        b"event_id,occurred_at,customer_id,meter,quantity,properties.region\n"
        + good.encode()
        + f"2,{ago()},c,calls,-1,eu\n".encode()
        + f"3,{ago()},c,calls,1\n".encode()
        + f'4,{ago()},"two\nlines",calls,1,eu\n'.encode()
        + f"5,{ago()},c\xff".encode("latin-1")
        + b",calls,1,eu\n"
        + f'6,{ago()},"c"x,calls,1,eu\n'.encode()
        + good.encode()
    )
    sent, said = send(file)
    assert sent == Sent(2, 5, 0)
    assert [line.split(":")[:2] for line in said.splitlines() if line.startswith("line ")] == [
        ["line 3", " quantity"],
        ["line 4", " has 5 cells where the header has 6"],
        ["line 6", " customer_id"],
        ["line 7", " customer_id"],
        ["line 8", " is no CSV"],
    ]


def test_many_bad_lines_are_counted_and_not_all_named(send: Send, tmp_path: Path) -> None:
    file = tmp_path / "usage.ndjson"
    file.write_bytes(b"5\n" * 5_000)
    sent, said = send(file)
    assert sent == Sent(0, 5_000, 0)
    assert sum(line.startswith("line ") for line in said.splitlines()) == 1_000


def test_a_large_file_is_sent_whole(send: Send, servers: str, org: str, tmp_path: Path) -> None:
    file = tmp_path / "usage.ndjson.gz"
    file.write_bytes(gzip.compress(ndjson(*(event(str(number)) for number in range(20_000))), 1))
    sent, _ = send(file)
    assert sent == Sent(20_000, 0, 0)
    assert len(on_topic(servers, org)) == 20_000


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        pytest.param("usage.txt", b"", "--format", id="a name that tells no format"),
        pytest.param("usage.csv", b"", "event_id", id="an empty CSV file"),
        pytest.param("usage.csv", b"event_id,occurred_at,customer_id,colour\n", "colour", id="an unknown column"),
        pytest.param("usage.csv", b"event_id,customer_id\n", "occurred_at", id="a missing column"),
        pytest.param(
            "usage.ndjson.gz", gzip.compress(ndjson(event("1")))[:-9], "cannot be read", id="half a gzip file"
        ),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(
    send: Send, tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CommandError, match=says):
        send(tmp_path / name)


def test_history_goes_by_its_own_lane(send: Send, servers: str, org: str, tmp_path: Path) -> None:
    file = tmp_path / "history.ndjson"
    file.write_bytes(ndjson(event("1", occurred_at=ago(days=33)), event("2", occurred_at=ago(days=35))))
    sent, said = send(file, way=BACKFILL)
    assert sent == Sent(1, 1, 0)
    assert "line 2: occurred_at" in said
    assert "--late" in said
    assert on_topic(servers, org) == []
    assert [each.event_id for _, each in on_topic(servers, org, USAGE_BACKFILL)] == ["1"]


def test_a_deployment_without_the_lane_is_told_the_command(kafka: EmbeddedKafka, tmp_path: Path) -> None:
    file = tmp_path / "usage.ndjson"
    file.write_bytes(ndjson(event("1")))
    with pytest.raises(CommandError, match="usage-backfill; make it with: meterlog topics create"):
        send_file(str(file), "acme", kafka.bootstrap_servers, lambda: 0, Console(file=io.StringIO()), way=BACKFILL)


def test_a_missing_file_is_refused(send: Send, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="No such file"):
        send(tmp_path / "none.csv")


def test_a_format_may_be_named(send: Send, tmp_path: Path) -> None:
    (tmp_path / "usage").write_bytes(ndjson(event("1")))
    assert send(tmp_path / "usage", file_format="ndjson")[0].acknowledged == 1


def test_an_organisation_that_is_none_is_refused(servers: str, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="--org"):
        send_file(str(tmp_path / "a.csv"), "A/b", servers, lambda: 0, Console(file=io.StringIO()))


def test_without_a_broker_the_lines_count_as_failed(tmp_path: Path, org: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.send._DELIVERY_TIMEOUT_S", 1.0)
    file = tmp_path / "usage.ndjson"
    file.write_bytes(ndjson(event("1"), event("2")))
    stderr = io.StringIO()
    sent = send_file(
        str(file), org, "127.0.0.1:9", lambda: time.time_ns() // 1_000_000, Console(file=stderr, width=200)
    )
    assert sent == Sent(0, 0, 2)
    assert "not acknowledged by Kafka" in stderr.getvalue()


def test_the_summary_is_a_sentence_or_json(capsys: pytest.CaptureFixture[str]) -> None:
    print_sent(Sent(3, 2, 1), as_json=False)
    assert capsys.readouterr().out == "3 acknowledged, 2 refused, 1 failed\n"
    print_sent(Sent(3, 2, 1), as_json=True)
    assert json.loads(capsys.readouterr().out) == {"acknowledged": 3, "refused": 2, "failed": 1}


def test_a_file_is_read_as_a_stream(tmp_path: Path) -> None:
    file = tmp_path / "usage.ndjson"
    file.write_bytes(ndjson(*(event(str(number)) for number in range(10_000))))
    with open_events(str(file), None) as opened:
        next(opened.lines)
        assert opened.size_bytes == file.stat().st_size
        assert 0 < opened.read_bytes() < opened.size_bytes / 2

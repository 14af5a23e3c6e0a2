"""The embedded ClickHouse as its clients see it: clickhouse-connect, sync and async, and plain HTTP."""

from __future__ import annotations

import asyncio
import datetime
import decimal
import gzip
import json
import os
import signal
import stat
import sys
import threading
import uuid
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import clickhouse_connect
import lz4.frame  # type: ignore[import-untyped]
import psutil
import pyarrow
import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError

from runtime.embedded.clickhouse import Endpoint, endpoint, is_ready, running_endpoint
from runtime.embedded.clickhouse_engine import Engine
from runtime.embedded.clickhouse_http import ClickHouseServer
from runtime.embedded.errors import PortTaken
from runtime.embedded.http_body import PIECE_BYTES_MAX
from runtime.embedded.ports import pick
from runtime.launch import Process, spawn
from tests.runtime.http_client import ask, authorized
from tests.runtime.processes import first_line, is_gone, python
from tests.waiting import wait_until

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

NOON = datetime.datetime(2026, 11, 21, 12, 0, 0, 123000, tzinfo=datetime.UTC)
COLUMNS = {
    "id": ("UUID", uuid.UUID(int=7)),
    "name": ("LowCardinality(String)", "it's \t a \\ name\n ünicode"),
    "at": ("DateTime64(6, 'UTC')", NOON),
    "amount": ("Decimal(38, 18)", decimal.Decimal("12345678901234567890.123456789012345678")),
    "count": ("UInt64", 2**64 - 1),
    "maybe": ("Nullable(Int32)", None),
    "tags": ("Map(String, String)", {"a": "b'c"}),
    "list": ("Array(UInt8)", [1, 2, 3]),
}


def connect(at: Endpoint, **options: Any) -> Client:
    return clickhouse_connect.get_client(
        host=at.host, port=at.port, username=at.user, password=at.password, database=at.database, **options
    )


@pytest.fixture
def table(client: Client) -> Iterator[str]:
    """An empty table of COLUMNS."""
    name = f"t_{uuid.uuid4().hex}"
    columns = ", ".join(f"`{column}` {kind}" for column, (kind, _) in COLUMNS.items())
    client.command(f"CREATE TABLE {name} ({columns}) ENGINE = MergeTree ORDER BY name")
    yield name
    client.command(f"DROP TABLE {name}")


@pytest.fixture
def numbers(client: Client) -> Iterator[str]:
    """An empty table of one column, `n`."""
    name = f"n_{uuid.uuid4().hex}"
    client.command(f"CREATE TABLE {name} (n UInt64) ENGINE = MergeTree ORDER BY n")
    yield name
    client.command(f"DROP TABLE {name}")


ROW = [value for _, value in COLUMNS.values()]


@pytest.mark.parametrize("compress", [False, "lz4", "zstd", "gzip", True])
def test_rows_come_back_as_they_went(compress: bool | str, clickhouse: Endpoint, table: str) -> None:
    with connect(clickhouse, compress=compress) as client:
        summary = client.insert(table, [ROW] * 3000, column_names=list(COLUMNS))
        assert summary.written_rows == 3000
        result = client.query(f"SELECT * FROM {table}", settings={"max_block_size": 700}, tz_mode="aware")
        assert result.column_names == tuple(COLUMNS)
        assert [list(row) for row in result.result_rows] == [ROW] * 3000


def test_columns_come_back_as_they_went(client: Client, table: str) -> None:
    client.insert(table, [[value, value] for value in ROW], column_names=list(COLUMNS), column_oriented=True)
    result = client.query(f"SELECT * FROM {table}", column_oriented=True, tz_mode="aware")
    assert [list(column) for column in result.result_columns] == [[value, value] for value in ROW]


def test_arrow_goes_both_ways(client: Client, numbers: str) -> None:
    table = pyarrow.table({"n": pyarrow.array(range(100_000), pyarrow.uint64())})
    assert client.insert_arrow(numbers, table).written_rows == 100_000
    assert client.query_arrow(f"SELECT n FROM {numbers} ORDER BY n").to_pydict() == table.to_pydict()


@pytest.mark.parametrize(
    ("data_format", "data"),
    [
        ("JSONEachRow", b'{"n": 1}\n{"n": 2}'),
        ("RowBinary", (1).to_bytes(8, "little") + (2).to_bytes(8, "little")),
        ("CSV", b"1\n2\n"),
        ("TabSeparated", b"1\n2\n"),
        ("Values", b"(1), (1 + 1)"),
    ],
)
@pytest.mark.parametrize("compression", [None, "lz4", "zstd", "gzip"])
def test_raw_data_is_inserted_in_any_format(
    data_format: str, data: bytes, compression: str | None, client: Client, numbers: str
) -> None:
    pack = {None: bytes, "lz4": lz4.frame.compress, "zstd": zstd.compress, "gzip": gzip.compress}[compression]
    client.raw_insert(numbers, ["n"], pack(data), fmt=data_format, compression=compression)
    assert client.query(f"SELECT n FROM {numbers} ORDER BY n").result_rows == [(1,), (2,)]


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("String", "it's \t a \\ name\n ünicode; -- file('x')"),
        ("UInt64", 2**63),
        ("Decimal(38, 18)", decimal.Decimal("-0.000000000000000001")),
        ("DateTime64(3, 'UTC')", NOON),
        ("Array(String)", ["a'b", "c\\d"]),
        ("Nullable(String)", None),
    ],
)
@pytest.mark.parametrize("form", [False, True], ids=["in the URL", "as a form"])
def test_parameters_arrive_as_they_were_given(kind: str, value: object, form: bool, clickhouse: Endpoint) -> None:
    with connect(clickhouse, form_encode_query_params=form) as client:
        result = client.query(f"SELECT {{value:{kind}}} AS value", parameters={"value": value}, tz_mode="aware")
        assert result.result_rows == [(value,)]


def test_a_result_without_rows_and_a_question_for_the_columns_alone(client: Client, table: str) -> None:
    assert client.query(f"SELECT * FROM {table}").result_rows == []
    assert client.query(f"SELECT * FROM {table} LIMIT 0").column_names == tuple(COLUMNS)
    assert client.command(f"SELECT count() FROM {table}") == 0


def test_results_stream(client: Client) -> None:
    with client.query_row_block_stream("SELECT number FROM numbers(200000)") as blocks:
        assert sum(len(block) for block in blocks) == 200_000


async def _async_round_trip(at: Endpoint, table: str) -> list[Any]:
    client = await clickhouse_connect.get_async_client(
        host=at.host, port=at.port, username=at.user, password=at.password, database=at.database
    )
    await client.insert(table, [[1], [2]], column_names=["n"])
    result = await client.query(f"SELECT n FROM {table} WHERE n > {{least:UInt64}}", parameters={"least": 1})
    await client.close()
    return list(result.result_rows)


def test_the_async_client_works_too(clickhouse: Endpoint, numbers: str) -> None:
    assert asyncio.run(_async_round_trip(clickhouse, numbers)) == [(2,)]


def test_a_large_insert_arrives_whole(client: Client, numbers: str) -> None:
    count = 500_000
    client.insert(numbers, [list(range(count))], column_names=["n"], column_oriented=True)
    assert client.query(f"SELECT count(), sum(n) FROM {numbers}").result_rows == [(count, count * (count - 1) // 2)]


def test_clients_at_the_same_time_do_not_disturb_each_other(clickhouse: Endpoint, numbers: str) -> None:
    """16 threads insert, count and fail side by side, each with settings of its own."""

    def work(worker: int) -> None:
        with connect(clickhouse, autogenerate_session_id=False) as client:
            for step in range(5):
                client.insert(numbers, [[worker * 100 + step]], column_names=["n"])
                seconds = client.query(
                    "SELECT getSetting('max_execution_time')", settings={"max_execution_time": worker + 1}
                )
                assert int(seconds.result_rows[0][0]) == worker + 1
                with pytest.raises(DatabaseError):
                    client.query("SELECT * FROM nowhere")

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(16)))
    with connect(clickhouse) as client:
        assert client.query(f"SELECT count(), uniqExact(n) FROM {numbers}").result_rows == [(80, 80)]


@pytest.mark.parametrize(
    ("sql", "status", "code", "name"),
    [
        ("SELEC 1", 400, "62", "SYNTAX_ERROR"),
        ("SELECT 'open", 400, "62", "SYNTAX_ERROR"),
        ("SELECT * FROM nowhere", 404, "60", "UNKNOWN_TABLE"),
        ("SELECT nothing", 404, "47", "UNKNOWN_IDENTIFIER"),
        ("SELECT throwIf(1)", 500, "395", "FUNCTION_THROW_IF_VALUE_IS_NON_ZERO"),
        ("SELECT file('x')", 403, "497", "ACCESS_DENIED"),
        ("SELECT 1; SELECT 2", 403, "497", "ACCESS_DENIED"),
        ("INSERT INTO nowhere FORMAT CSV\n1\n", 404, "60", "UNKNOWN_TABLE"),
    ],
)
def test_errors_are_clickhouses_own(sql: str, status: int, code: str, name: str, clickhouse: Endpoint) -> None:
    answer = ask(clickhouse, sql)
    assert (answer.status, answer.code) == (status, code)
    assert answer.body.startswith(f"Code: {code}. ".encode())
    assert f"({name})".encode() in answer.body


def test_clickhouse_connect_knows_the_error(client: Client) -> None:
    with pytest.raises(DatabaseError) as raised:
        client.query("SELECT * FROM nowhere")
    assert (raised.value.code, raised.value.name) == (60, "UNKNOWN_TABLE")


def test_rows_that_cannot_be_read_are_an_error_and_store_nothing(clickhouse: Endpoint, numbers: str) -> None:
    answer = ask(clickhouse, f"INSERT INTO {numbers} FORMAT CSV\n1\n2\nx\n")
    assert answer.status >= 400
    assert ask(clickhouse, f"SELECT count() FROM {numbers}").body == b"0\n"


def test_headers_are_as_clients_expect_them(clickhouse: Endpoint, numbers: str) -> None:
    answer = ask(clickhouse, f"INSERT INTO {numbers} FORMAT CSV\n1\n2\n", {"query_id": "mine"})
    summary = json.loads(answer.headers["X-ClickHouse-Summary"])
    assert (summary["written_rows"], answer.headers["X-ClickHouse-Query-Id"]) == ("2", "mine")
    assert answer.headers["X-ClickHouse-Timezone"] == "UTC"
    assert "X-ClickHouse-Format" not in answer.headers
    answer = ask(clickhouse, "SELECT 1 WHERE 0 FORMAT JSONEachRow")
    assert (answer.headers["X-ClickHouse-Format"], answer.body) == ("JSONEachRow", b"")
    answer = ask(clickhouse, "SELECT 1", {"default_format": "CSV"})
    assert answer.headers["X-ClickHouse-Format"] == "CSV"


def test_a_body_that_says_it_is_a_form_is_the_statement(clickhouse: Endpoint) -> None:
    """As curl --data sends it, and urllib."""
    headers = authorized(clickhouse, Content_Type="application/x-www-form-urlencoded")
    assert ask(clickhouse, "SELECT 'a=b&c+d'", headers=headers).body == b"a=b&c+d\n"


def test_no_other_query_id_can_add_a_header(clickhouse: Endpoint) -> None:
    answer = ask(clickhouse, "SELECT 1", {"query_id": "a\r\nX-Evil: 1"})
    assert "X-Evil" not in answer.headers


def test_a_get_changes_nothing(clickhouse: Endpoint, numbers: str) -> None:
    answer = ask(clickhouse, method="GET", parameters={"query": f"INSERT INTO {numbers} VALUES (1)"})
    assert answer.code == "164"
    assert ask(clickhouse, method="GET", parameters={"query": f"SELECT count() FROM {numbers}"}).body == b"0\n"


def test_ping_needs_no_credentials(clickhouse: Endpoint) -> None:
    answer = ask(clickhouse, method="GET", path="/ping", headers={})
    assert (answer.status, answer.body) == (200, b"Ok.\n")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Basic bWV0ZXJsb2c6d3Jvbmc="},
        {"Authorization": "Basic !"},
        {"Authorization": "Bearer x"},
        {"X-ClickHouse-User": "meterlog", "X-ClickHouse-Key": "wrong"},
        {"X-ClickHouse-User": "meterlog", "X-ClickHouse-Key": ""},
    ],
    ids=["none", "a wrong password", "no base64", "another scheme", "a wrong key", "an empty key"],
)
def test_without_the_token_nothing_is_answered(headers: dict[str, str], clickhouse: Endpoint) -> None:
    answer = ask(clickhouse, "SELECT 'se' || 'cret'", headers=headers)
    assert (answer.status, answer.code) == (403, "516")
    assert b"secret" not in answer.body


def test_a_refused_client_that_is_still_sending_gets_its_answer(clickhouse: Endpoint) -> None:
    answer = ask(clickhouse, b"x" * 900_000, headers={})
    assert answer.code == "516"


def test_the_token_is_taken_in_each_of_clickhouses_ways(clickhouse: Endpoint) -> None:
    assert ask(clickhouse, "SELECT 1").status == 200
    assert ask(clickhouse, "SELECT 1", headers=authorized(clickhouse)).status == 200
    credentials = {"user": clickhouse.user, "password": clickhouse.password}
    assert ask(clickhouse, "SELECT 1", credentials, headers={}).status == 200
    assert ask(clickhouse, "SELECT 1", credentials | {"user": "default"}, headers={}).code == "516"


def test_bodies_come_in_chunks_of_any_size(clickhouse: Endpoint, numbers: str) -> None:
    text = f"INSERT INTO {numbers} FORMAT CSV\n".encode() + b"".join(b"%d\n" % n for n in range(2000))
    pieces = [text[at : at + 7] for at in range(0, len(text), 7)]
    assert ask(clickhouse, pieces, headers=authorized(clickhouse)).status == 200
    assert ask(clickhouse, f"SELECT count(), sum(n) FROM {numbers}").body == b"2000\t1999000\n"


def test_the_statement_may_come_before_the_data_or_beside_it(clickhouse: Endpoint, numbers: str) -> None:
    data = b"".join(b"%d\n" % n for n in range(200_000))  # more than is looked at for the statement
    assert ask(clickhouse, data, {"query": f"INSERT INTO {numbers} FORMAT CSV"}).status == 200
    assert ask(clickhouse, f"INSERT INTO {numbers} FORMAT CSV\n".encode() + data).status == 200
    assert ask(clickhouse, "(1), (2)", {"query": f"INSERT INTO {numbers} VALUES"}).status == 200
    assert ask(clickhouse, f"SELECT count() FROM {numbers}").body == b"400002\n"


def test_a_statement_larger_than_what_is_looked_at_first_is_run_whole(clickhouse: Endpoint) -> None:
    text = "SELECT length('" + "x" * 400_000 + "'), 'file_name'"
    assert ask(clickhouse, text).body == b"400000\tfile_name\n"


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", b"not gzip"),
        ("lz4", b"not lz4 at all, really"),
        ("zstd", b"not zstd at all, really"),
        ("br", b"SELECT 1"),
        ("gzip", gzip.compress(b"SELECT 1")[:-6]),
        ("zstd", zstd.compress(b"SELECT 1" * 100)[:-6]),
        ("lz4", lz4.frame.compress(b"SELECT 1" * 100)[:-6]),
    ],
)
def test_a_body_that_is_packed_wrongly_is_a_client_error(encoding: str, body: bytes, clickhouse: Endpoint) -> None:
    answer = ask(clickhouse, body, headers=authorized(clickhouse, Content_Encoding=encoding))
    assert (answer.status, answer.code) == (400, "36")


def test_a_small_body_cannot_become_a_large_memory(clickhouse: Endpoint) -> None:
    bomb = zlib.compressobj(9, zlib.DEFLATED, 31)
    zeros = b"SELECT 1" + b" " * PIECE_BYTES_MAX
    packed = b"".join(bomb.compress(zeros) for _ in range(80)) + bomb.flush()
    assert len(packed) < 200_000
    answer = ask(clickhouse, packed, headers=authorized(clickhouse, Content_Encoding="gzip"))
    assert answer.status == 400
    assert b"a statement may have" in answer.body


@pytest.mark.parametrize("encoding", ["lz4", "zstd", "gzip", "deflate"])
def test_answers_are_packed_where_asked(encoding: str, clickhouse: Endpoint) -> None:
    unpack = {"lz4": lz4.frame.decompress, "zstd": zstd.decompress, "gzip": gzip.decompress, "deflate": zlib.decompress}
    headers = authorized(clickhouse, Accept_Encoding=f"br, {encoding};q=0.9")
    answer = ask(clickhouse, "SELECT number FROM numbers(1000)", headers=headers)
    assert answer.headers["Content-Encoding"] == encoding
    assert unpack[encoding](answer.body) == b"".join(b"%d\n" % n for n in range(1000))
    unpacked = ask(clickhouse, "SELECT number FROM numbers(1000)", {"enable_http_compression": "0"}, headers=headers)
    assert "Content-Encoding" not in unpacked.headers


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Length": "-1"},
        {"Content-Length": "x"},
        {"Transfer-Encoding": "gzip"},
        {"Content-Type": "multipart/form-data; boundary=x"},
    ],
)
def test_requests_that_make_no_sense_are_answered(headers: dict[str, str], clickhouse: Endpoint) -> None:
    answer = ask(clickhouse, b"", headers=authorized(clickhouse) | headers)
    assert answer.status in (200, 400)
    assert is_ready(clickhouse)


def test_a_setting_that_does_not_exist_is_named(clickhouse: Endpoint) -> None:
    answer = ask(clickhouse, "SELECT 1", {"no_such_setting": "1"})
    assert answer.code == "115"
    assert b"no_such_setting" in answer.body
    assert ask(clickhouse, "SELECT 1", {"max_threads = 1, x": "1"}).code == "115"


def test_memory_is_limited(clickhouse: Endpoint) -> None:
    answer = ask(clickhouse, "SELECT groupArray(number) FROM numbers(1000000000)")
    assert answer.code == "241"
    assert ask(clickhouse, "SELECT 1").status == 200


def test_inserts_are_synced_before_they_are_acknowledged(clickhouse: Endpoint, numbers: str) -> None:
    before = _syncs(clickhouse)
    ask(clickhouse, f"INSERT INTO {numbers} FORMAT CSV\n1\n")
    after = _syncs(clickhouse)
    assert after["FileSync"] - before["FileSync"] >= 5
    assert after["DirectorySync"] - before["DirectorySync"] >= 1


def _syncs(at: Endpoint) -> dict[str, int]:
    sql = "SELECT event, value FROM system.events WHERE event IN ('FileSync', 'DirectorySync') FORMAT CSV"
    rows = [line.split(",") for line in ask(at, sql).body.decode().splitlines()]
    return {"FileSync": 0, "DirectorySync": 0} | {name.strip('"'): int(value) for name, value in rows}


class Server:
    """A ClickHouse of the test's own, to be killed."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.at = endpoint(data_dir)
        self.process = self._start()

    def _start(self) -> Process:
        argv = [sys.executable, "-m", "runtime.embedded.clickhouse", "--data-dir", str(self.data_dir)]
        process = spawn([*argv, "--port", str(self.at.port)], log_file=self.data_dir / "server.log")
        wait_until(lambda: is_ready(self.at) or process.poll() is not None, "ClickHouse answers")
        assert process.poll() is None, (self.data_dir / "server.log").read_text()
        return process

    def end(self, sig: signal.Signals) -> int:
        self.process.send_signal(sig)
        return self.process.wait(60)

    def start_again(self) -> None:
        self.at = endpoint(self.data_dir)
        self.process = self._start()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path / "a, path? with & signs%20")
    yield made
    made.end(signal.SIGKILL)


def test_acknowledged_rows_survive_sigkill(server: Server) -> None:
    ask(server.at, "CREATE TABLE kept (n UInt64) ENGINE = ReplacingMergeTree ORDER BY n")
    before = server.at
    for generation in range(3):
        for step in range(5):
            assert ask(server.at, f"INSERT INTO kept FORMAT CSV\n{generation * 5 + step}\n").status == 200
        server.end(signal.SIGKILL)
        server.start_again()
        assert server.at == before, "clients find the server again"
        rows = ask(server.at, "SELECT n FROM kept ORDER BY n").body.split()
        assert rows == [b"%d" % n for n in range(5 * generation + 5)]


def test_a_kill_in_the_middle_of_inserts_loses_no_acknowledged_row(server: Server) -> None:
    ask(server.at, "CREATE TABLE busy (n UInt64) ENGINE = MergeTree ORDER BY n")
    acknowledged: list[int] = []

    def insert_until_killed() -> None:
        try:
            for n in range(100_000):
                assert ask(server.at, f"INSERT INTO busy FORMAT CSV\n{n}\n").status == 200
                acknowledged.append(n)
        except OSError:
            return

    thread = threading.Thread(target=insert_until_killed)
    thread.start()
    wait_until(lambda: len(acknowledged) >= 20, "some are acknowledged")
    server.end(signal.SIGKILL)
    thread.join()
    server.start_again()
    rows = [int(row) for row in ask(server.at, "SELECT n FROM busy ORDER BY n").body.split()]
    assert rows[: len(acknowledged)] == acknowledged
    assert len(rows) <= len(acknowledged) + 1


def test_a_request_on_an_open_connection_to_a_stopping_server_is_told_so(tmp_path: Path) -> None:
    """The engine must not be started anew by a request that comes after its end."""
    http = ClickHouseServer(pick(1)[0], Engine(tmp_path), "token")
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    connection = HTTPConnection("127.0.0.1", http.server_port)
    connection.request("GET", "/ping")
    connection.getresponse().read()
    assert http.stop(5)
    connection.request("POST", "/", "SELECT 1", {"X-ClickHouse-User": "meterlog", "X-ClickHouse-Key": "token"})
    response = connection.getresponse()
    assert (response.status, response.headers["X-ClickHouse-Exception-Code"]) == (503, "236")
    response.read()
    connection.close()
    thread.join()


def test_sigterm_lets_a_running_statement_finish(server: Server) -> None:
    answers: list[bytes] = []
    sql = "SELECT sum(sleepEachRow(0.02)) FROM numbers(50) SETTINGS max_block_size = 1"
    thread = threading.Thread(target=lambda: answers.append(ask(server.at, sql).body))
    thread.start()
    wait_until(lambda: b"sleepEachRow(" in ask(server.at, "SELECT query FROM system.processes").body, "it runs")
    assert server.end(signal.SIGTERM) == 0
    thread.join()
    assert answers == [b"0\n"]


def test_the_directory_has_one_server_and_its_token_one_reader(server: Server) -> None:
    token = server.data_dir / "token"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert running_endpoint(server.data_dir) == server.at
    assert server.at.password not in repr(server.at)
    argv = [sys.executable, "-m", "runtime.embedded.clickhouse", "--data-dir", str(server.data_dir)]
    log = server.data_dir / "second.log"
    assert spawn(argv, log_file=log).wait(60) != 0
    assert "in use by another process" in log.read_text()
    assert is_ready(server.at)


def test_only_loopback_is_bound(server: Server) -> None:
    connections = psutil.Process(server.process.pid).net_connections("inet")
    assert {tuple(one.laddr) for one in connections if one.status == psutil.CONN_LISTEN} == {
        ("127.0.0.1", server.at.port)
    }


def test_a_port_that_is_taken_is_refused_by_name(server: Server, tmp_path: Path) -> None:
    with pytest.raises(PortTaken, match=str(server.at.port)):
        endpoint(tmp_path / "other", server.at.port)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children of a killed parent")
def test_a_killed_parent_leaves_no_server(tmp_path: Path) -> None:
    script = """
import pathlib, sys, time
from runtime.embedded.clickhouse import endpoint, is_ready
from runtime.launch import spawn
data_dir = pathlib.Path(sys.argv[1])
at = endpoint(data_dir)
argv = [sys.executable, "-m", "runtime.embedded.clickhouse", "--data-dir", str(data_dir), "--port", str(at.port)]
process = spawn(argv, log_file=data_dir / "log")
while not is_ready(at):
    time.sleep(0.01)
print(process.pid, flush=True)
time.sleep(600)
"""
    parent = python(script, tmp_path)
    pid = int(first_line(parent))
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    wait_until(lambda: is_gone(pid), "the server is gone")

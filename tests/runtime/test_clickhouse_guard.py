"""Nothing asked of the embedded ClickHouse reads or writes outside its own tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError

from runtime.embedded.clickhouse import Endpoint
from runtime.embedded.clickhouse_config import SETTINGS_LOCKED
from runtime.embedded.sql_guard import Refused, read_statement
from runtime.embedded.sql_words import CALLS_REFUSED, ENGINES_ALLOWED, TABLE_FUNCTIONS_ALLOWED
from tests.runtime.http_client import ask

SECRET = "the-secret-of-the-machine"

READS = {
    "file()": "SELECT file('{path}')",
    "with a comment between": "SELECT file/* ( */('{path}')",
    "with a nested comment": "SELECT /* /* */ ' */ file('{path}') --'",
    "with a line comment between": "SELECT file -- (\n('{path}')",
    "with a comment of two slashes": "SELECT 1 // '\n, file('{path}') // '",
    "behind a number that eats a dash": "SELECT 1e--1, file('{path}')",
    "in backquotes": "SELECT `file`('{path}')",
    "in double quotes": "SELECT \"file\"('{path}')",
    "in escapes": r"SELECT `fi\x6ce`('{path}')",
    "as an argument": "SELECT arrayMap(file, ['{path}'])",
    "as a transformer": "SELECT * APPLY file FROM (SELECT '{path}')",
    "as a transformer in brackets": "SELECT * APPLY(file) FROM (SELECT '{path}')",
    "behind an escaped quote": r"SELECT '\'', file('{path}'), ' '",
    "behind a doubled quote": "SELECT '''', file('{path}'), ''",
    "behind a heredoc": "SELECT $a$ ' $a$, file('{path}') AS x, ''",
    "in a name that looks like a heredoc": "SELECT 1 AS a$b$, file('{path}'), 2 AS b$b$",
    "as a table": "SELECT * FROM file('{path}', 'LineAsString')",
    "as a table in capitals": "SELECT * FROM FILE('{path}', 'LineAsString')",
    "as a table's name": "SELECT * FROM '{path}'",
    "as a table's name in backquotes": "SELECT * FROM `{path}`",
    "over a cluster": "SELECT * FROM fileCluster('default', '{path}', 'LineAsString')",
    "as a folder": "SELECT content FROM filesystem('{path}')",
    "by a table": "CREATE TABLE forbidden (a String) ENGINE = File(LineAsString, '{path}')",
    "by a database": "CREATE DATABASE forbidden ENGINE = Filesystem('/')",
    "by a dictionary": "CREATE DICTIONARY forbidden (a UInt64, b String) PRIMARY KEY a "
    "SOURCE(FILE(path '{path}' format 'CSV')) LAYOUT(FLAT()) LIFETIME(1)",
    "by a default": "CREATE TABLE forbidden (a String, b String DEFAULT file('{path}')) ENGINE = Memory",
    "by a view": "CREATE VIEW forbidden AS SELECT file('{path}')",
    "by a view of a parameter": "CREATE VIEW forbidden AS SELECT arrayMap({{f:Identifier}}, ['{path}'])",
    "by a function of SQL": "CREATE FUNCTION forbidden AS (x) -> file(x)",
    "by values": "INSERT INTO FUNCTION null('a String') VALUES (file('{path}'))",
    "by the format Values": "INSERT INTO FUNCTION null('a String') FORMAT Values (file('{path}'))",
    "by INFILE": "INSERT INTO FUNCTION null('a String') FROM INFILE '{path}' FORMAT LineAsString",
    "by INFILE with a comment": "INSERT INTO FUNCTION null('a String') FROM/**/INFILE '{path}' FORMAT LineAsString",
    "by a template": "SELECT 1 FORMAT Template SETTINGS format_template_row = '{path}'",
    "by a filter": "SELECT 1 SETTINGS additional_result_filter = 'length(arrayMap(file, [''{path}''])) > 0'",
    "by another dialect": "SET dialect = 'prql'",
    "by text that is run": "SELECT * FROM eval('SELECT file(''{path}'')')",
    "by text that is run, allowed": "SELECT * FROM eval('SELECT 1') SETTINGS allow_experimental_eval_table_function = 1",
    "by a table that runs text": "CREATE TABLE forbidden (query String, database String, settings Map(String, String))"
    " ENGINE = QueryRunner",
    "by a second statement": "SELECT 1; SELECT file('{path}')",
    "by a parameter set in the statement": "SELECT arrayMap({{f:Identifier}}, ['{path}']) SETTINGS param_f = 'file'",
    "by this process's memory": "SELECT * FROM python(SECRET)",
    "by a program": "SELECT * FROM executable('cat {path}', 'LineAsString', 'a String')",
}
REACHES = {
    "url": "SELECT * FROM url('http://127.0.0.1:1/', 'CSV')",
    "s3": "SELECT * FROM s3('http://bucket.s3.amazonaws.com/a.csv', 'CSV')",
    "remote": "SELECT * FROM remote('127.0.0.1', 'system.one')",
    "mysql": "SELECT * FROM mysql('a', 'b', 'c', 'd', 'e')",
    "a Kafka table": "CREATE TABLE forbidden (a String) ENGINE = Kafka('a', 'b', 'c', 'd')",
    "a URL table": "CREATE TABLE forbidden (a String) ENGINE = URL('http://127.0.0.1:1/', 'CSV')",
    "a web disk": "CREATE TABLE forbidden (a Int8) ENGINE = MergeTree ORDER BY a"
    " SETTINGS disk = disk(type = web, endpoint = 'http://127.0.0.1:1/')",
    "a schema registry": "SELECT 1 SETTINGS format_avro_schema_registry_url = 'http://127.0.0.1:1/'",
    "a model": "SELECT aiGenerate('x')",
    "a backup": "BACKUP TABLE system.one TO Disk('default', 'x')",
    "another user": "CREATE USER forbidden",
    "more rights": "GRANT ALL ON *.* TO default",
    "a shutdown": "SYSTEM SHUTDOWN",
    "more memory": "SET max_memory_usage = 100000000000",
}
WRITES = {
    "INTO OUTFILE": "SELECT 1 INTO OUTFILE '{path}' FORMAT CSV",
    "INTO OUTFILE with a comment": "SELECT 1 INTO /* */ outfile '{path}'",
    "INSERT INTO FUNCTION file": "INSERT INTO FUNCTION file('{path}', 'CSV', 'a Int8') SELECT 1",
    "INSERT INTO TABLE FUNCTION file": "INSERT INTO TABLE FUNCTION file('{path}', 'CSV', 'a Int8') FORMAT CSV\n1\n",
    "the record of bad rows": "INSERT INTO FUNCTION null('a Int8') SETTINGS"
    " input_format_record_errors_file_path = '{path}', input_format_allow_errors_num = 9 FORMAT CSV\nx\n",
    "a schema": "SELECT 1 AS a FORMAT Protobuf SETTINGS output_format_schema = '{path}'",
}


@pytest.mark.parametrize("sql", READS.values(), ids=READS.keys())
def test_no_way_to_read_a_file(sql: str, client: Client, tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text(SECRET)
    with pytest.raises(DatabaseError) as raised:
        client.raw_query(sql.format(path=path))
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize("sql", REACHES.values(), ids=REACHES.keys())
def test_no_way_to_another_place(sql: str, client: Client) -> None:
    with pytest.raises(DatabaseError, match=r"ACCESS_DENIED|SETTING_CONSTRAINT_VIOLATION"):
        client.raw_query(sql)


@pytest.mark.parametrize("sql", WRITES.values(), ids=WRITES.keys())
def test_no_way_to_write_a_file(sql: str, client: Client, tmp_path: Path) -> None:
    path = tmp_path / "written"
    with pytest.raises(DatabaseError):
        client.raw_query(sql.format(path=path))
    assert not path.exists()


@pytest.mark.parametrize("name", ["file", " file ", "`file`", r"fi\x6ce", "FILE"])
def test_no_way_by_a_parameter(name: str, clickhouse: Endpoint) -> None:
    answer = ask(clickhouse, "SELECT arrayMap({f:Identifier}, ['/etc/hostname'])", {"param_f": name})
    assert (answer.status, answer.code) == (403, "497")


@pytest.mark.parametrize("name", SETTINGS_LOCKED)
def test_settings_that_open_another_door_are_locked(name: str, clickhouse: Endpoint) -> None:
    found = ask(clickhouse, f"SELECT type, value FROM system.settings WHERE name = '{name}'").body.decode()
    assert found, "this engine does not know the setting any more"
    setting_type, value = found.rstrip("\n").split("\t")
    other = {"Bool": "1", "Map": "{'t': '1'}", "Dialect": "kusto", "URI": "http://127.0.0.1:1/"}.get(setting_type, "x")
    assert other != value
    set_it = "SET {} = '{}'".format(name, other.replace("'", "''"))
    for answer in (ask(clickhouse, "SELECT 1", {name: other}), ask(clickhouse, set_it)):
        assert answer.status != 200
        assert b"should not be changed" in answer.body


def test_every_table_function_of_the_engine_is_judged(client: Client) -> None:
    rows = client.query("SELECT lower(name) FROM system.table_functions").result_rows
    unjudged = {name for (name,) in rows} - CALLS_REFUSED - TABLE_FUNCTIONS_ALLOWED
    assert not unjudged, "a new engine brings new table functions: decide on each"
    assert not CALLS_REFUSED & TABLE_FUNCTIONS_ALLOWED


def test_every_function_that_asks_a_model_is_refused(client: Client) -> None:
    rows = client.query("SELECT lower(name) FROM system.functions WHERE name ILIKE 'ai%'").result_rows
    assert {name for (name,) in rows} <= CALLS_REFUSED


def test_the_engines_that_are_allowed_exist(client: Client) -> None:
    rows = client.query(
        "SELECT lower(name) FROM system.table_engines UNION ALL SELECT lower(name) FROM system.database_engines"
    ).result_rows
    assert {name for (name,) in rows} >= ENGINES_ALLOWED


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 'file(1)', \"url\", `s3` FROM t -- file(1)",
        "SELECT $$ file('x') INTO OUTFILE $$",
        "SELECT outfiles, infile_count, profile FROM files WHERE url = 'x' /* INTO OUTFILE */",
        "SELECT engine, remote FROM system.tables WHERE engine = 'File'",
        "CREATE VIEW v AS SELECT name, engine FROM system.tables",
        "CREATE TABLE t (engine String, url String) ENGINE ReplacingMergeTree(v) ORDER BY tuple()",
        "CREATE DATABASE d ENGINE = Atomic",
        "CREATE MATERIALIZED VIEW v TO t AS SELECT 1",
        "SELECT 1;",
        "SELECT 1 ; -- done",
        "SELECT {t:Identifier}.a FROM {t:Identifier}",
    ],
)
def test_what_only_looks_like_it_is_not_refused(sql: str) -> None:
    assert read_statement(sql.encode(), {"param_t": "table"}).data_format is None


@pytest.mark.parametrize(
    ("sql", "head", "data_format", "data"),
    [
        ("INSERT INTO t FORMAT CSV\n1,2\n", "INSERT INTO t ", "CSV", "1,2\n"),
        (
            "INSERT INTO t (format, values) FORMAT Native \r\n'\"/*",
            "INSERT INTO t (format, values) ",
            "Native",
            "'\"/*",
        ),
        ("insert into t format TSV 1", "insert into t ", "TSV", "1"),
        ("INSERT INTO t SETTINGS a = 1 FORMAT TSV\n\n1", "INSERT INTO t SETTINGS a = 1 ", "TSV", "\n1"),
        ("INSERT INTO t FORMAT RowBinary", "INSERT INTO t ", "RowBinary", ""),
        ("INSERT INTO t FORMAT TSV\nfile('x') INTO OUTFILE", "INSERT INTO t ", "TSV", "file('x') INTO OUTFILE"),
    ],
)
def test_an_inserts_data_is_told_from_its_statement(sql: str, head: str, data_format: str, data: str) -> None:
    statement = read_statement(sql.encode(), {})
    assert statement.data_start is not None
    found = (statement.sql.decode(), statement.data_format, sql.encode()[statement.data_start :].decode())
    assert found == (head, data_format, data)


@pytest.mark.parametrize(
    ("sql", "answers", "result_format"),
    [
        ("SELECT 1 FORMAT JSON", True, "JSON"),
        ("SELECT 1 FORMAT Native SETTINGS max_threads = 1", True, "Native"),
        ("SELECT format FROM t", True, None),
        ("CREATE TABLE t (a Int8) ENGINE = Memory", False, None),
        ("INSERT INTO t SELECT 1", False, None),
        ("INSERT INTO t VALUES (1)", False, None),
    ],
)
def test_statements_say_whether_and_how_they_answer(sql: str, answers: bool, result_format: str | None) -> None:
    statement = read_statement(sql.encode(), {})
    assert (statement.answers, statement.result_format) == (answers, result_format)


@pytest.mark.parametrize("make", [str.lower, str.upper, str.title, str.swapcase])
def test_letter_case_does_not_matter(make: Callable[[str], str]) -> None:
    for sql in ("select * from url('x')", "select 1 into outfile 'x'", "create table t (a int) engine = url('x')"):
        with pytest.raises(Refused):
            read_statement(make(sql).encode(), {})

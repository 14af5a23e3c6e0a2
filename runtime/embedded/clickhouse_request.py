"""One request of ClickHouse's HTTP interface: what the client asks for, and how the engine is asked for it."""

from __future__ import annotations

import base64
import binascii
import hmac
import itertools
from collections.abc import Iterator, Mapping
from email.message import Message
from email.parser import BytesParser
from email.policy import HTTP
from typing import NamedTuple

from runtime.embedded.clickhouse_engine import DATABASE, ClickHouseError, Engine, Result
from runtime.embedded.errors import EmbeddedError
from runtime.embedded.http_body import BadBody
from runtime.embedded.sql_guard import Refused, Statement, read_statement
from runtime.embedded.sql_lexer import UnreadableSql

USER = "meterlog"
HEAD_BYTES_MAX = 256 * 1024  # an INSERT's text before its data; clickhouse-connect's are below 10 kB
SQL_BYTES_MAX = 64 << 20  # text is read whole, VALUES included; data in a format has no such limit
_PARAMETER = "param_"
# Not settings of the engine: they steer the HTTP interface itself, or name sessions, which this server does not keep.
_NOT_SETTINGS = frozenset(
    {
        "query",
        "database",
        "default_format",
        "query_id",
        "user",
        "password",
        "quota_key",
        "role",
        "session_id",
        "session_timeout",
        "session_check",
        "compress",
        "decompress",
        "wait_end_of_query",
        "buffer_size",
        "client_protocol_version",
        "enable_http_compression",
        "send_progress_in_http_headers",
        "http_headers_progress_interval_ms",
        "cancel_http_readonly_queries_on_client_close",
    }
)


class Request(NamedTuple):
    """`parameters` are the URL's and the form's, `body` the request's body unpacked, empty if it was a form."""

    parameters: Mapping[str, str]
    headers: Message
    body: Iterator[bytes]
    may_write: bool

    @property
    def default_format(self) -> str:
        """The format of a result whose statement names none."""
        named = self.parameters.get("default_format") or self.headers.get("X-ClickHouse-Format")
        return named or "TabSeparated"

    @property
    def database(self) -> str:
        """The database that unqualified names mean. A client's `default` means ours: there is no other."""
        named = self.parameters.get("database") or self.headers.get("X-ClickHouse-Database") or DATABASE
        return DATABASE if named == "default" else named


class Reply(NamedTuple):
    """A result and the format it is in, None when the statement has no result."""

    result: Result
    result_format: str | None


def is_authentic(parameters: Mapping[str, str], headers: Message, token: str) -> bool:
    """Whether the request carries the token, in any of the three ways that ClickHouse knows."""
    user, key = _credentials(parameters, headers)
    return hmac.compare_digest(key.encode(), token.encode()) and user == USER


def read_form(body: bytes, content_type: str) -> dict[str, str]:
    """The fields of a multipart form. Raises BadBody for files: external tables are not supported."""
    message = BytesParser(policy=HTTP).parsebytes(b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body)
    fields: dict[str, str] = {}
    for part in message.iter_parts():
        name = part.get_param("name", header="content-disposition")
        if part.get_filename() is not None or not isinstance(name, str):
            raise BadBody("external data is not supported by the embedded ClickHouse")
        payload = part.get_payload(decode=True)
        assert isinstance(payload, bytes), "a part of a form has no parts"
        fields[name] = payload.decode()
    return fields


def answer(engine: Engine, request: Request) -> Reply:
    """Run the request's statement. Raises ClickHouseError, BadBody."""
    if request.parameters.get("decompress") == "1" or request.parameters.get("compress") == "1":
        raise BadBody("compress=1 and decompress=1 are not supported; use Content-Encoding and Accept-Encoding")
    try:
        statement, data = _statement(request)
    except Refused as error:
        raise ClickHouseError(497, f"Code: 497. DB::Exception: {error}. (ACCESS_DENIED)") from error
    except UnreadableSql as error:
        raise ClickHouseError(62, f"Code: 62. DB::Exception: Syntax error: {error}. (SYNTAX_ERROR)") from error
    with engine.session() as session:
        session.use(request.database)
        session.set(_settings(request))
        if statement.data_format is not None:
            return Reply(session.insert(_text(statement.sql), statement.data_format, data), None)
        result = session.run(_text(statement.sql), request.default_format)
    return Reply(result, (statement.result_format or request.default_format) if statement.answers else None)


def _credentials(parameters: Mapping[str, str], headers: Message) -> tuple[str, str]:
    basic = headers.get("Authorization", "")
    if basic[:6].lower() == "basic ":
        try:
            user, _, key = base64.b64decode(basic[6:], validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return "", ""
        return user, key
    if "X-ClickHouse-Key" in headers:
        return headers.get("X-ClickHouse-User", ""), headers["X-ClickHouse-Key"]
    return parameters.get("user", ""), parameters.get("password", "")


def _statement(request: Request) -> tuple[Statement, Iterator[bytes]]:
    """The statement, and an INSERT's data, which is read on from the body as the engine takes it."""
    parameters = _bound(request.parameters)
    query = request.parameters.get("query", "").encode()
    head, rest = _read_up_to(request.body, HEAD_BYTES_MAX)
    sql = query + b"\n" + head if query else head
    following = next(rest, None)
    if following is None:
        statement = read_statement(sql, parameters)
        return statement, _data(statement, sql, rest)
    rest = itertools.chain([following], rest)
    with_data = _insert_head(sql, parameters)
    if with_data is not None:
        return with_data, _data(with_data, sql, rest)
    sql += _read_whole(rest, SQL_BYTES_MAX - len(sql))
    statement = read_statement(sql, parameters)
    return statement, _data(statement, sql, rest)


def _insert_head(sql: bytes, parameters: Mapping[str, str]) -> Statement | None:
    """The INSERT of whose text `sql` is the beginning, if its data begins within. Anything else must be read whole."""
    try:
        statement = read_statement(sql, parameters)
    except EmbeddedError:
        return None
    return statement if statement.data_start is not None and statement.data_start < len(sql) else None


def _data(statement: Statement, sql: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    first = sql[statement.data_start :] if statement.data_start is not None else b""
    return itertools.chain([first] if first else [], rest)


def _read_up_to(pieces: Iterator[bytes], size: int) -> tuple[bytes, Iterator[bytes]]:
    """At least `size` bytes, or all that there are, and the pieces after them."""
    read = bytearray()
    for piece in pieces:
        read += piece
        if len(read) >= size:
            break
    return bytes(read), pieces


def _read_whole(pieces: Iterator[bytes], bytes_max: int) -> bytes:
    read, rest = _read_up_to(pieces, bytes_max)
    if len(read) > bytes_max or next(rest, None) is not None:
        msg = f"a statement may have {SQL_BYTES_MAX} bytes; send rows as data in a format instead"
        raise BadBody(msg)
    return read


def _settings(request: Request) -> dict[str, str]:
    settings = {name: value for name, value in request.parameters.items() if name not in _NOT_SETTINGS}
    if not request.may_write:
        settings["readonly"] = "2"  # a GET may be repeated by anyone on the way, so it changes nothing
    return settings


def _bound(parameters: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in parameters.items() if name.startswith(_PARAMETER)}


def _text(sql: bytes) -> str:
    try:
        return sql.decode()
    except UnicodeDecodeError as error:
        raise ClickHouseError(62, "Code: 62. DB::Exception: the statement is not UTF-8. (SYNTAX_ERROR)") from error

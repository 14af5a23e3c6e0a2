"""ClickHouse's engine in this process, by way of chdb: one engine a process, one connection a request.

Connections run at the same time, keep their settings apart, and cost 0.2 ms each. Never fork after `Engine.open`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from runtime.embedded import clickhouse_config
from runtime.embedded.errors import EmbeddedError

DATABASE = "meterlog"
_CODE = re.compile(r"Code: (\d+)\. DB::")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# Relative, as the paths in the files are: chdb takes its options from the connection string as a URL's query, where no
# path of a user's (with `?`, `&` or `%`) would survive. So the engine's process lives in the data directory.
_STORE, _CONFIG, _USERS = "db", "config.xml", "users.xml"


class ClickHouseError(EmbeddedError):
    """Raised when the engine refuses or fails a statement; `code` is ClickHouse's own."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Result(NamedTuple):
    """A statement's answer in its format, and what it read and wrote."""

    body: bytes
    read_rows: int = 0
    read_bytes: int = 0
    written_rows: int = 0
    written_bytes: int = 0
    elapsed_ns: int = 0


class Engine:
    """The engine over a data directory; `session()` gives what one request needs of it."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._chdb: Any = None
        self._keep: Any = None

    def open(self) -> None:
        """Start the engine, with the data directory as this process's working directory, and make our database."""
        os.chdir(self._data_dir)
        os.environ["TZ"] = "UTC"  # read once, by chdb's import
        import chdb

        clickhouse_config.write(Path(), _CONFIG, _USERS)
        self._chdb = chdb
        self._keep = chdb.connect(f"{_STORE}?config-file={_CONFIG}")  # the engine lives until its last connection ends
        # `default` is an Overlay database here, which wants rights to files, so clients get another one.
        self._keep.query(f"CREATE DATABASE IF NOT EXISTS {DATABASE} ENGINE = Atomic")

    def close(self) -> None:
        """Flush and end the engine. No session may be open."""
        if self._keep is not None:
            self._keep.close()
            self._keep = None

    @contextmanager
    def session(self) -> Iterator[Session]:
        """A connection of its own, forgotten afterwards with all its settings."""
        connection = self._chdb.connect(_STORE)
        try:
            yield Session(connection)
        finally:
            connection.close()


class Session:
    """One request's connection. Its methods raise ClickHouseError."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def use(self, database: str) -> None:
        """Make `database` the one that unqualified names mean."""
        self._run(f"USE {_quoted(database, '`')}", "Null")

    def set(self, settings: Mapping[str, str]) -> None:
        """Apply settings, and parameters as `param_name`, for the rest of the session."""
        for name in settings:
            if not _NAME.fullmatch(name):
                raise ClickHouseError(115, f"Code: 115. DB::Exception: Unknown setting {name!r}. (UNKNOWN_SETTING)")
        if settings:
            assignments = ", ".join(f"{name} = {_quoted(value, _APOSTROPHE)}" for name, value in settings.items())
            self._run(f"SET {assignments}", "Null")

    def run(self, sql: str, default_format: str) -> Result:
        """Run a statement; its own FORMAT wins over `default_format`."""
        result = self._run(sql, default_format)
        return Result(
            bytes(result.bytes() or b""),
            result.storage_rows_read(),
            result.storage_bytes_read(),
            result.rows_written(),
            result.bytes_written(),
            int(result.elapsed() * 1e9),
        )

    def insert(self, head: str, data_format: str, data: Iterable[bytes]) -> Result:
        """Run `head` (an INSERT up to its FORMAT) with `data` in `data_format`. On return the rows are on the disk.

        Data goes to the engine as it comes. When it breaks off or cannot be read, the insert is cancelled; blocks of a
        million rows that were complete by then stay, as on a server.
        """
        with _engine_errors():
            with self._connection.send_insert(head, data_format) as inserter:
                for chunk in data:
                    inserter.append(chunk)
                done = inserter.finish()
        return Result(
            b"", written_rows=done.rows_written, written_bytes=done.bytes_written, elapsed_ns=int(done.elapsed * 1e9)
        )

    def _run(self, sql: str, default_format: str) -> Any:
        with _engine_errors():
            return self._connection.query(sql, default_format)


_APOSTROPHE = "'"


def _quoted(text: str, quote: str) -> str:
    return quote + text.replace("\\", "\\\\").replace(quote, "\\" + quote) + quote


@contextmanager
def _engine_errors() -> Iterator[None]:
    """What chdb raises is a RuntimeError, its own class among them, with ClickHouse's message somewhere in the text."""
    try:
        yield
    except RuntimeError as error:
        said = str(error)
        match = _CODE.search(said)
        code = int(match.group(1)) if match else 1002  # UNKNOWN_EXCEPTION
        raise ClickHouseError(code, said[match.start() :] if match else f"Code: 1002. {said}") from error

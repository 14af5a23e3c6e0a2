"""The store over ClickHouse's HTTP interface."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from typing import Final

import clickhouse_connect
import pyarrow as pa
from clickhouse_connect.driver import Client
from clickhouse_connect.driver.exceptions import ClickHouseError

from sinks.clickhouse.errors import SchemaDiffers, from_clickhouse
from sinks.clickhouse.mapping import from_position_row
from sinks.clickhouse.position import Position, TopicPartition
from sinks.clickhouse.settings import SinkSettings
from sinks.clickhouse.tables import Table

__all__ = ["SCHEMA_VERSION", "ClickHouseStore", "schema_statements"]

SCHEMA_VERSION: Final = 1
_CONNECT_TIMEOUT_S: Final = 5
_ANSWER_TIMEOUT_S: Final = 60
"""A batch takes 0.2 s; one that got no answer in a minute is sent again, which changes nothing."""
_INSERT_SETTINGS: Final = {
    "async_insert": 0,  # an asynchronous insert is acknowledged from memory
    "max_partitions_per_insert_block": 0,  # a batch that reads years of a quiet ledger may span more than 100 months
}
_POSITIONS: Final = """
    SELECT
        topic, partition, next_offset, source_offset, log_ms, rewind_next_offset, rewind_source_offset, rewind_log_ms
    FROM {database}.sink_positions FINAL
"""


class ClickHouseStore:
    """Rows go in as Arrow; the tables are those of `schema.sql`. Calls come one at a time, from any thread."""

    def __init__(self, settings: SinkSettings) -> None:
        self._settings = settings
        self._client: Client | None = None

    def prepare(self) -> None:
        """Make the database and what is missing in it. Safe to repeat, and beside another sink that does the same."""
        with _mapped():
            client = self._connected()
            known = self._known_version(client)
            if known not in (None, SCHEMA_VERSION):
                message = (
                    f"database {self._settings.database} has tables of version {known}, this release writes version"
                    f" {SCHEMA_VERSION}; run the release that made them, or name an empty database"
                )
                raise SchemaDiffers(message)
            if known is None:
                for statement in schema_statements(self._settings.database):
                    client.command(statement)

    def positions(self) -> dict[TopicPartition, Position]:
        with _mapped():
            rows = self._connected().query(self._sql(_POSITIONS)).result_rows
        return dict(from_position_row(row) for row in rows)

    def insert(self, table: Table, rows: pa.Table) -> None:
        with _mapped():
            name = f"{self._settings.database}.{table.name}"
            self._connected().insert_arrow(name, rows, settings=_INSERT_SETTINGS)

    def _known_version(self, client: Client) -> int | None:
        """The newest version that was made whole here: its number is written last."""
        there = client.command(self._sql("EXISTS TABLE {database}.schema_version"))
        if not there:
            return None
        found = client.query(self._sql("SELECT max(version) FROM {database}.schema_version")).result_rows
        return int(found[0][0]) or None

    def _connected(self) -> Client:
        """A client asks the server for its version when it is made, so it is made when the server is there."""
        if self._client is None:
            self._client = clickhouse_connect.get_client(
                dsn=self._settings.clickhouse_url,
                username=self._settings.clickhouse_user,
                password=self._settings.clickhouse_password,
                connect_timeout=_CONNECT_TIMEOUT_S,
                send_receive_timeout=_ANSWER_TIMEOUT_S,
                autogenerate_session_id=False,  # a session refuses a second request while the first one hangs
                compress=False,
            )
        return self._client

    def _sql(self, text: str) -> str:
        return text.replace("{database}", self._settings.database)


def schema_statements(database: str) -> list[str]:
    """The statements of `schema.sql` for a database of that name, in order."""
    text = (files("sinks.clickhouse") / "schema.sql").read_text(encoding="utf-8").replace("{database}", database)
    lines = [line for line in text.splitlines() if not line.startswith("--")]
    return [statement.strip() for statement in "\n".join(lines).split(";\n") if statement.strip()]


@contextmanager
def _mapped() -> Iterator[None]:
    try:
        yield
    except ClickHouseError as exc:
        raise from_clickhouse(exc) from exc

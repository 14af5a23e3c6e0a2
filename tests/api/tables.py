"""The ClickHouse tables that the API's views stand on, filled by hand as the sink would."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import clickhouse_connect

from sinks.clickhouse.clickhouse import schema_statements


def connected(settings: Mapping[str, str], database: str = "default") -> Any:
    return clickhouse_connect.get_client(
        dsn=settings["clickhouse_url"],
        username=settings["clickhouse_user"],
        password=settings["clickhouse_password"],
        database=database,
    )


def make_tables(settings: Mapping[str, str]) -> None:
    client = connected(settings)
    for statement in schema_statements(settings["clickhouse_database"]):
        client.command(statement)
    client.close()


def insert(settings: Mapping[str, str], table: str, rows: Iterable[Mapping[str, Any]]) -> None:
    found = list(rows)
    client = connected(settings, settings["clickhouse_database"])
    client.insert(table, [list(row.values()) for row in found], column_names=list(found[0]))
    client.close()

"""Reads ClickHouse's views. Values are bound by the server, never written into a query's text."""

import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final

import clickhouse_connect
from clickhouse_connect.driver import Client
from clickhouse_connect.driver.exceptions import ClickHouseError

from api.settings import ApiSettings

__all__ = ["ClickHouse", "QueryFailed"]

_CONNECT_TIMEOUT_S: Final = 3
_ANSWER_TIMEOUT_S: Final = 10


class QueryFailed(Exception):
    """ClickHouse does not answer, or refuses the query. The message is for our log, not for a caller."""


class ClickHouse:
    """Queries from any thread. It connects at the first one, so that an API outlives a ClickHouse that is away."""

    def __init__(self, settings: ApiSettings) -> None:
        self._settings = settings
        self._client: Client | None = None
        self._connecting = threading.Lock()

    def rows(self, sql: str, parameters: Mapping[str, Any]) -> Sequence[Sequence[Any]]:
        """The rows of `sql`, its `{name:Type}` bound to `parameters`. Raises QueryFailed."""
        try:
            return self._connected().query(sql, parameters=dict(parameters)).result_rows
        except ClickHouseError as exc:
            msg = f"{type(exc).__name__}: {str(exc)[:300]}"
            raise QueryFailed(msg) from exc

    def close(self) -> None:
        if self._client is not None:
            self._client.close()

    def _connected(self) -> Client:
        with self._connecting:
            if self._client is None:
                self._client = clickhouse_connect.get_client(
                    dsn=self._settings.clickhouse_url,
                    username=self._settings.clickhouse_user,
                    password=self._settings.clickhouse_password,
                    database=self._settings.clickhouse_database,
                    connect_timeout=_CONNECT_TIMEOUT_S,
                    send_receive_timeout=_ANSWER_TIMEOUT_S,
                    autogenerate_session_id=False,  # a session takes one query at a time
                    client_name="meterlog-api",
                )
            return self._client

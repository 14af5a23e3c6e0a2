"""Plain HTTP to the embedded ClickHouse, for what clickhouse-connect would refuse to send or hide on the way back."""

from __future__ import annotations

import base64
import http.client
from collections.abc import Iterable, Mapping
from email.message import Message
from typing import NamedTuple
from urllib.parse import urlencode

from runtime.embedded.clickhouse import Endpoint


class Answer(NamedTuple):
    status: int
    headers: Message
    body: bytes

    @property
    def code(self) -> str | None:
        """ClickHouse's own error code."""
        return self.headers.get("X-ClickHouse-Exception-Code")


def ask(
    at: Endpoint,
    body: str | bytes | Iterable[bytes] = b"",
    parameters: Mapping[str, str] | None = None,
    *,
    method: str = "POST",
    path: str = "/",
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """One request on a connection of its own, with the endpoint's credentials unless `headers` has others."""
    credentials = base64.b64encode(f"{at.user}:{at.password}".encode()).decode()
    connection = http.client.HTTPConnection(at.host, at.port, timeout=60)
    url = f"{path}?{urlencode(parameters)}" if parameters else path
    sent = {"Authorization": f"Basic {credentials}"} if headers is None else dict(headers)
    connection.request(method, url, body, sent)
    response = connection.getresponse()
    answer = Answer(response.status, response.headers, response.read())
    connection.close()
    return answer


def authorized(at: Endpoint, **more: str) -> dict[str, str]:
    """Headers that carry the credentials, and `more`, with `_` for `-`."""
    headers = {"X-ClickHouse-User": at.user, "X-ClickHouse-Key": at.password}
    return headers | {name.replace("_", "-"): value for name, value in more.items()}

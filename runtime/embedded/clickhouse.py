"""The embedded ClickHouse: chdb behind ClickHouse's HTTP interface, as a process of its own.

`endpoint` says where and how to reach the one of a data directory, before it runs and while it does; `serve` is it.
"""

from __future__ import annotations

import argparse
import http.client
import logging
import os
import secrets
import signal
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import NamedTuple

from observe.embedded import EmbeddedEvent
from observe.log import LogLine
from runtime.embedded import ports
from runtime.embedded.clickhouse_engine import DATABASE, Engine
from runtime.embedded.clickhouse_http import ClickHouseServer
from runtime.embedded.clickhouse_request import USER
from runtime.embedded.errors import PortTaken
from runtime.embedded.locks import hold

_log = logging.getLogger(__name__)
_PORT_FILE, _TOKEN_FILE = "ports.json", "token"
STOP_WAIT_S = 15.0


class Endpoint(NamedTuple):
    """Where a data directory's ClickHouse listens, and what it wants to see."""

    host: str
    port: int
    user: str
    password: str
    database: str

    @property
    def url(self) -> str:
        """`http://host:port`, without credentials."""
        return f"http://{self.host}:{self.port}"

    def __repr__(self) -> str:
        return f"Endpoint({self.url}, user={self.user}, password=***, database={self.database})"


def endpoint(data_dir: Path, port: int | None = None) -> Endpoint:
    """The directory's endpoint. Its token is made at the first call; its port stays while it is free.

    For whoever starts the server: while that runs its port is not free, so `connect` is for the others.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    if port is not None and not ports.is_free(port):
        msg = f"Port {port}, wanted for ClickHouse, is in use. Stop what listens there, or name another."
        raise PortTaken(msg)
    [chosen] = ports.remembered(data_dir / _PORT_FILE, 1, port)
    return Endpoint(ports.LOOPBACK, chosen, USER, _token(data_dir / _TOKEN_FILE), DATABASE)


def running_endpoint(data_dir: Path) -> Endpoint:
    """The endpoint of a directory whose server runs. Raises FileNotFoundError when there never was one."""
    [port] = ports.known(data_dir / _PORT_FILE)
    return Endpoint(ports.LOOPBACK, port, USER, (data_dir / _TOKEN_FILE).read_text(), DATABASE)


def is_ready(at: Endpoint) -> bool:
    """Whether the server answers. Returns within about a second."""
    try:
        with urllib.request.urlopen(f"{at.url}/ping", timeout=1) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, http.client.HTTPException, OSError):
        return False


def serve(data_dir: Path, port: int, token: str) -> None:
    """Serve `data_dir` on loopback until SIGTERM or SIGINT, then let running statements finish and end the engine.

    To be a process's main: it changes the working directory and the signal handlers. The engine is open before the
    port is, so that a client that connects can be served. Raises DirectoryInUse, and OSError for a port that is taken.
    """
    held = hold(data_dir)
    engine = Engine(data_dir.absolute())
    engine.open()
    server = ClickHouseServer(port, engine, token)
    stop = threading.Event()
    # After the engine has started, which sets handlers of its own.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    threading.Thread(target=server.serve_forever, name="clickhouse-http", daemon=True).start()
    _log.info(LogLine(EmbeddedEvent.CLICKHOUSE_READY, {"port": port}))
    stop.wait()
    clean = server.stop(STOP_WAIT_S)
    if clean:
        engine.close()
    _log.info(LogLine(EmbeddedEvent.CLICKHOUSE_STOPPED, {"clean": clean}))
    held.close()


def _token(file: Path) -> str:
    """The directory's token, made when there is none, readable by its owner alone from the first byte on."""
    if not file.exists():
        draft = file.with_name(f"{file.name}.{secrets.token_hex(4)}")
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as handle:
            handle.write(secrets.token_urlsafe(32))
        draft.replace(file)
    return file.read_text()


def main() -> None:
    """`python -m runtime.embedded.clickhouse --data-dir D [--port N]`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--port", type=int)
    arguments = parser.parse_args()
    at = endpoint(arguments.data_dir, arguments.port)
    serve(arguments.data_dir, at.port, at.password)


if __name__ == "__main__":
    main()

"""ClickHouse's HTTP interface on loopback, over the engine in this process; unmodified clients do not notice."""

from __future__ import annotations

import json
import logging
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.parse import parse_qsl, urlsplit

from runtime.embedded.clickhouse_engine import ClickHouseError, Engine, Result
from runtime.embedded.clickhouse_request import SQL_BYTES_MAX, Reply, Request, answer, is_authentic, read_form
from runtime.embedded.http_body import BadBody, pack, read_body, unpacked
from runtime.embedded.ports import LOOPBACK

_log = logging.getLogger(__name__)
RUNNING_MAX = 8  # statements at once; more wait, since each may take hundreds of megabytes
_DRAIN_BYTES_MAX = 1 << 20
_FORM = "multipart/form-data"  # a urlencoded body is the statement itself, as curl --data sends it
# HTTP status by ClickHouse's code, as its server has it for the codes that clients tell apart; 500 for the others.
_STATUS = {
    516: 403,
    497: 403,
    62: 400,
    36: 400,
    115: 404,
    60: 404,
    81: 404,
    46: 404,
    47: 404,
    159: 408,
    164: 403,
}


class ClickHouseServer(ThreadingHTTPServer):
    """Serves one engine; `stop` lets the requests that run finish."""

    daemon_threads = True  # an idle client's connection must not hold up the end
    block_on_close = False
    request_queue_size = 128

    def __init__(self, port: int, engine: Engine, token: str) -> None:
        super().__init__((LOOPBACK, port), _Handler)
        self.engine = engine
        self.token = token
        self.running = threading.Semaphore(RUNNING_MAX)
        self._requests = 0
        self._stopping = False
        self._idle = threading.Condition()

    @contextmanager
    def request(self) -> Iterator[bool]:
        """A request from its headers to its answer's last byte; False when the server stops and takes no more."""
        with self._idle:
            accepted = not self._stopping
            self._requests += accepted
        try:
            yield accepted
        finally:
            with self._idle:
                self._requests -= accepted
                self._idle.notify_all()

    def stop(self, timeout_s: float) -> bool:
        """Take no more requests, and wait for those that run; whether all ended in time."""
        self.shutdown()
        self.server_close()
        with self._idle:
            self._stopping = True
            return self._idle.wait_for(lambda: self._requests == 0, timeout_s)


class _Handler(BaseHTTPRequestHandler):
    server: ClickHouseServer
    protocol_version = "HTTP/1.1"
    server_version = "meterlog-embedded-clickhouse"
    sys_version = ""
    disable_nagle_algorithm: ClassVar[bool] = True  # headers and body are two writes: 40 ms a request otherwise
    wbufsize = 1 << 16
    timeout = 300

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if url.path in ("/ping", "/replicas_status") or (url.path == "/" and not url.query):
            self._send(200, b"Ok.\n", {"Content-Type": "text/plain; charset=UTF-8"})
            return
        self._serve(may_write=False)

    def do_POST(self) -> None:
        self._serve(may_write=True)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: an access log line a request would cost more than the request."""

    def _serve(self, *, may_write: bool) -> None:
        parameters = dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True))
        query_id = parameters.get("query_id") or str(uuid.uuid4())
        if not is_authentic(parameters, self.headers, self.server.token):
            self._refuse(query_id)
            return
        with self.server.request() as accepted:
            if accepted:
                self._run(parameters, query_id, may_write=may_write)
            else:
                self._fail(503, 236, "Code: 236. DB::Exception: the server is stopping. (ABORTED)", query_id)

    def _run(self, parameters: dict[str, str], query_id: str, *, may_write: bool) -> None:
        try:
            request = self._request(parameters, may_write=may_write)
            with self.server.running:
                reply = answer(self.server.engine, request)
            self._succeed(reply, request, query_id)
        except ClickHouseError as error:
            self._fail(_STATUS.get(error.code, 500), error.code, str(error), query_id)
        except (BadBody, UnicodeDecodeError) as error:
            self._fail(400, 36, f"Code: 36. DB::Exception: {error}. (BAD_ARGUMENTS)", query_id)

    def _request(self, parameters: dict[str, str], *, may_write: bool) -> Request:
        wire = read_body(self.rfile, self.headers.get("Content-Length"), self.headers.get("Transfer-Encoding"))
        body = unpacked(wire, self.headers.get("Content-Encoding"))
        content_type = self.headers.get("Content-Type", "")
        if content_type.startswith(_FORM):
            parameters |= read_form(_whole(body), content_type)
            body = iter(())
        return Request(parameters, self.headers, body, may_write)

    def _succeed(self, reply: Reply, request: Request, query_id: str) -> None:
        body, encoding = reply.result.body, None
        if request.parameters.get("enable_http_compression", "1") != "0":
            body, encoding = pack(body, self.headers.get("Accept-Encoding", ""))
        headers = _common_headers(query_id) | {"X-ClickHouse-Summary": _summary(reply.result)}
        if reply.result_format is not None:
            headers["X-ClickHouse-Format"] = reply.result_format
        if encoding is not None:
            headers["Content-Encoding"] = encoding
        self._send(200, body, headers)

    def _refuse(self, query_id: str) -> None:
        message = "Code: 516. DB::Exception: Authentication failed: user or token is wrong. (AUTHENTICATION_FAILED)"
        self._fail(403, 516, message, query_id)

    def _fail(self, status: int, code: int, message: str, query_id: str) -> None:
        """Answer an error and end the connection, since some of the body may be unread."""
        self.close_connection = True
        headers = _common_headers(query_id) | {"X-ClickHouse-Exception-Code": str(code), "Connection": "close"}
        self._send(status, message.encode() + b"\n", headers)
        self._drain()

    def _drain(self) -> None:
        """Read some of what is still coming: closing on a client that writes would cost it our answer."""
        with suppress(OSError):
            self.connection.settimeout(0.2)
            left = _DRAIN_BYTES_MAX
            while left > 0 and (piece := self.connection.recv(65536)):
                left -= len(piece)

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()


def _common_headers(query_id: str) -> dict[str, str]:
    safe_id = "".join(char for char in query_id if char.isprintable() and char.isascii())
    return {
        "Content-Type": "text/plain; charset=UTF-8",
        "X-ClickHouse-Query-Id": safe_id,
        "X-ClickHouse-Timezone": "UTC",
        "X-ClickHouse-Server-Display-Name": "meterlog-embedded",
    }


def _summary(result: Result) -> str:
    """As ClickHouse has it: every number a string."""
    return json.dumps({name: str(value) for name, value in result._asdict().items() if name != "body"})


def _whole(body: Iterator[bytes]) -> bytes:
    read = bytearray()
    for piece in body:
        read += piece
        if len(read) > SQL_BYTES_MAX:
            raise BadBody("the form is too large")
    return bytes(read)

"""The embedded stack: Kafka, ClickHouse's engine, Stripe's double, and every process of meterlog, under one supervisor."""

import json
import os
import shutil
import signal
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Self

import typer

from runtime.embedded import clickhouse, ports
from runtime.embedded.kafka import EmbeddedKafka
from runtime.errors import CommandError, StackError
from runtime.log_lines import set_up_logging
from runtime.settings import LogSettings, Settings, load_settings, write_stack_file
from runtime.supervisor import Child, NotReady, Supervisor
from runtime.topics import create_topics, operator_key, public_bytes

__all__ = ["PARTITIONS", "PARTS", "WATCHED", "Stack", "run_up"]

PARTITIONS = 4
PARTS = ("kafka", "clickhouse", "stripe double", "worker", "forwarder", "sink clickhouse", "sink stripe", "api")
WATCHED = ("worker", "forwarder", "sink clickhouse", "sink stripe", "api")
"""The parts that serve /metrics and /health, each on a port of its own."""
_PROBE_TIMEOUT_S = 1.0
_READY_WITHIN_S = 90.0
_SESSION_TIMEOUT_S = 6.0


class Stack:
    """All of meterlog on one machine; what it knows lies in `data_dir`, and a later stack on it continues."""

    parts = PARTS

    def __init__(
        self,
        data_dir: Path,
        *,
        api_port: int,
        stripe_send_interval_s: float = 5.0,
        worker_command: Sequence[str] | None = None,
    ) -> None:
        """`api_port` 0 picks a free port. `worker_command` replaces the worker's: for tests that break it on purpose."""
        self.data_dir = data_dir.absolute()
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self._kafka = EmbeddedKafka(self.data_dir / "kafka")
        self._supervisor = Supervisor()
        self._stop = threading.Event()
        self._making_topics = threading.Lock()
        self._stripe_send_interval_s = stripe_send_interval_s
        self._worker_command = worker_command
        if api_port and not ports.is_free(api_port):
            message = f"port {api_port} is in use; stop what listens there, or choose another with --port"
            raise StackError(message)
        self._clickhouse = clickhouse.endpoint(self.data_dir / "clickhouse")
        found = ports.remembered(self.data_dir / "ports.json", 2 + len(WATCHED))
        self._stripe_port, found_api_port = found[:2]
        self._watch_ports = dict(zip(WATCHED, found[2:], strict=True))
        self._api_port = api_port or found_api_port
        self.api_url = f"http://127.0.0.1:{self._api_port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def settings(self) -> Settings:
        """What its processes are told; known once Kafka serves."""
        return load_settings(self.data_dir)

    def start(self) -> Iterator[str]:
        """Start part by part, in the order of their needs; gives each one's name when it serves. Raises StackError."""
        self._kafka.prepare()
        broker = self._kafka
        self._run(Child("kafka", broker.command(), self._log("kafka"), cwd=broker.folder(), is_ready=broker.is_ready))
        yield "kafka"
        write_stack_file(self.data_dir, self._variables())
        settings = self.settings
        key = operator_key(settings.operator_key_path)
        with self._making_topics:
            create_topics(settings.bootstrap_servers, PARTITIONS, 1, public_bytes(key))
        for name, arguments, is_ready in self._processes():
            command = self._worker_command if name == "worker" and self._worker_command else (*_meterlog(), *arguments)
            self._run(Child(name, command, self._log(name), env=self._environment(name), is_ready=is_ready))
            yield name

    def wait(self) -> None:
        """Until Ctrl-C or SIGTERM."""
        self._stop.wait()

    def stop_on_signals(self) -> None:
        """Let Ctrl-C and SIGTERM end `wait`, and a start that is under way; a second one kills what is left."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: self._on_signal())

    @property
    def watch_urls(self) -> dict[str, str]:
        """Where each part serves /metrics, /health and /livez."""
        return {name: f"http://127.0.0.1:{port}" for name, port in self._watch_ports.items()}

    @property
    def stopping(self) -> bool:
        return self._stop.is_set()

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to one part; the supervisor restarts what dies."""
        self._supervisor.kill(name, number)

    def pid(self, name: str) -> int | None:
        """The part's process id; None while it is down."""
        return next(status.pid for status in self._supervisor.status() if status.name == name)

    def stop(self) -> None:
        """End every process, the last started first."""
        self._supervisor.stop()
        self._kafka.release()

    def _on_signal(self) -> None:
        if self._stop.is_set():
            for status in self._supervisor.status():
                self._supervisor.kill(status.name)
            return
        self._stop.set()
        # Not here: whoever waits for a part to serve is told only when that part is stopped.
        threading.Thread(target=self._stop_parts, name="stop").start()

    def _stop_parts(self) -> None:
        # Topics take a second to make; asked of a Kafka that goes away meanwhile, its client would wait for 15.
        with self._making_topics:
            self._supervisor.stop()

    def _run(self, child: Child) -> None:
        if self._stop.is_set():
            message = f"{child.name} was not started: the stack is ending"
            raise StackError(message)
        self._supervisor.start(child)
        try:
            self._supervisor.wait_ready(child.name, _READY_WITHIN_S)
        except NotReady as exc:
            raise StackError(str(exc)) from exc

    def _processes(self) -> list[tuple[str, Sequence[str], Callable[[], bool]]]:
        return [
            ("clickhouse", ("embedded", "clickhouse"), lambda: clickhouse.is_ready(self._clickhouse)),
            ("stripe double", ("embedded", "stripe"), lambda: ports.accepts(self._stripe_port)),
            ("worker", ("worker",), lambda: True),
            ("forwarder", ("forwarder",), lambda: True),
            ("sink clickhouse", ("sink", "clickhouse"), lambda: True),
            ("sink stripe", ("sink", "stripe"), lambda: True),
            ("api", ("api",), lambda: _is_green(f"{self.api_url}/v1/health")),
        ]

    def _variables(self) -> dict[str, str]:
        return {
            "METERLOG_BOOTSTRAP_SERVERS": self._kafka.bootstrap_servers,
            "METERLOG_DATA_DIR": str(self.data_dir),
            "METERLOG_PARTITIONS": str(PARTITIONS),
            "METERLOG_REPLICATION": "1",
            "METERLOG_CLICKHOUSE_URL": self._clickhouse.url,
            "METERLOG_CLICKHOUSE_USER": self._clickhouse.user,
            "METERLOG_CLICKHOUSE_PASSWORD": self._clickhouse.password,
            "METERLOG_STRIPE_URL": f"http://127.0.0.1:{self._stripe_port}",
            "METERLOG_STRIPE_SEND_INTERVAL_S": str(self._stripe_send_interval_s),
            "METERLOG_API_PORT": str(self._api_port),
            "METERLOG_WORKER_SESSION_TIMEOUT_S": str(_SESSION_TIMEOUT_S),
            "METERLOG_WORKER_INSTANCE_ID": "worker-1",
            # Not a setting, but where to look: each part's own port, by its name.
            "METERLOG_WATCH_URLS": " ".join(f"{name.replace(' ', '-')}={url}" for name, url in self.watch_urls.items()),
        }

    def _environment(self, name: str) -> dict[str, str]:
        port = self._watch_ports.get(name)
        return {**os.environ, **self._variables(), "METERLOG_METRICS_PORT": "" if port is None else str(port)}

    def _log(self, name: str) -> Path:
        return self.data_dir / "logs" / f"{name.replace(' ', '-')}.log"


def run_up(data_dir: Path, port: int) -> int:
    """`meterlog up`: start, say `ready`, run until Ctrl-C; exit 0."""
    # What is started is told below; here only what dies or will not start.
    set_up_logging("up", LogSettings(), level="warning")
    with Stack(data_dir, api_port=port) as stack:
        stack.stop_on_signals()
        try:
            for name in stack.start():
                typer.echo(f"started {name}", err=True)
        except Exception:
            if stack.stopping:
                return 0  # whatever was asked of a part that was being stopped meanwhile
            raise
        typer.echo(f"clickhouse {stack.settings.clickhouse_url}")
        for name, url in stack.watch_urls.items():
            typer.echo(f"metrics of {name}: {url}/metrics", err=True)
        typer.echo(f"ready {stack.api_url}")
        stack.wait()
    return 0


def _meterlog() -> tuple[str, ...]:
    """The command as a child's command line shows it: `… meterlog worker`."""
    beside = Path(sys.executable).with_name("meterlog")
    found = str(beside) if beside.exists() else shutil.which("meterlog")
    if found is None:
        message = "the command meterlog is not installed beside this Python; run make setup"
        raise CommandError(message)
    return (sys.executable, found)


def _is_green(url: str) -> bool:
    """Whether all of its health is green: a stack is ready when its sinks have caught up as well."""
    try:
        with urllib.request.urlopen(url, timeout=_PROBE_TIMEOUT_S) as response:
            return bool(json.load(response)["status"] == "green")
    except (urllib.error.URLError, OSError, ValueError):
        return False

"""Apache Kafka in KRaft mode as child JVMs: one broker for `meterlog up` and most tests, three for replication tests."""

from __future__ import annotations

import base64
import json
import signal
import subprocess
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import IO, Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from runtime.embedded import broker_config, ports
from runtime.embedded.archive import archive_options
from runtime.embedded.errors import DirectoryInUse, DirectoryMismatch, PortTaken, StartFailed
from runtime.embedded.jars import fetch_jars
from runtime.embedded.locks import hold, is_locked_by_other
from runtime.embedded.tools import check_java, java
from runtime.launch import Process, spawn

START_WAIT_S = 60.0  # 2-3 s on two idle cores; a machine that runs many tests takes far longer
STOP_WAIT_S = 20.0
_ORPHAN_WAIT_S = 10.0  # the kernel has already killed a dead parent's JVM; its lock goes when it is reaped
_POLL_S = 0.02
_STDOUT_FILE = "jvm.log"
_NO_OVERRIDES: Mapping[str, object] = MappingProxyType({})


class EmbeddedKafka:
    """A Kafka cluster on loopback whose state lives in `data_dir`; opened again, it continues where it stopped.

    Two ways to run it. On its own: `start()` ... `stop()`, or `with EmbeddedKafka(d) as kafka`. Under a supervisor that
    owns the process: `prepare()`, then run `command(0)` in `folder(0)` until `is_ready()`, then `release()`.
    """

    def __init__(
        self,
        data_dir: Path,
        brokers: int = 1,
        port: int | None = None,
        overrides: Mapping[str, object] = _NO_OVERRIDES,
        jvm_options: Sequence[str] | None = None,
    ) -> None:
        """`port` fixes the first broker's client port; `overrides` are broker properties that win over ours.

        `jvm_options` (None: those that use the class archive) go to the brokers' JVMs.
        """
        assert brokers >= 1, "a cluster has at least one broker"
        self.data_dir = Path(data_dir).absolute()
        self.brokers = brokers
        self._fixed_port = port
        self._overrides = dict(overrides)
        self._jvm_options = None if jvm_options is None else list(jvm_options)
        self._processes: list[Process | None] = [None] * brokers
        self._ports: list[int] = []
        self._libs = Path()
        self._hold: IO[str] | None = None

    @property
    def bootstrap_servers(self) -> str:
        """`127.0.0.1:port` of each broker, separated by commas. Known once prepared."""
        assert self._ports, "the ports are chosen by prepare() or start()"
        return ",".join(f"{ports.LOOPBACK}:{port}" for port in self._ports[::2])

    @property
    def pid(self) -> int | None:
        """The first broker's process id, None when it does not run."""
        return self.pids[0]

    @property
    def pids(self) -> list[int | None]:
        """Each broker's process id, None for those that do not run."""
        return [None if process is None or process.poll() is not None else process.pid for process in self._processes]

    def folder(self, index: int = 0) -> Path:
        """Where broker `index` keeps its data and logs, and must be run."""
        return self.data_dir / f"broker-{index + 1}"

    def log_file(self, index: int = 0) -> Path:
        """What the broker says, from WARN on."""
        return self.folder(index) / broker_config.LOG_FILE

    def prepare(self) -> None:
        """Take the directory, choose ports, write the brokers' files and format their storage. Repeatable.

        Raises ToolMissing, FetchFailed, DirectoryInUse, DirectoryMismatch, PortTaken, StartFailed (format).
        """
        check_java()
        self._libs = fetch_jars()
        if self._hold is not None:
            return
        self._hold = hold(self.data_dir)
        try:
            self._set_up()
        except BaseException:
            self.release()
            raise

    def command(self, index: int = 0) -> list[str]:
        """The command line of broker `index`, to be run in `folder(index)`; the same for every restart."""
        options = archive_options() if self._jvm_options is None else self._jvm_options
        return broker_config.java_command(java(), self._libs, options, "kafka.Kafka", [broker_config.PROPERTIES_FILE])

    def is_ready(self) -> bool:
        """Whether every broker serves clients. Returns within about a second."""
        return self._ready_brokers() == self.brokers

    def release(self) -> None:
        """Let go of the directory; the brokers must have stopped."""
        if self._hold is not None:
            self._hold.close()
            self._hold = None

    def start(self, timeout_s: float = START_WAIT_S) -> Self:
        """Start all brokers and wait until they serve. Raises as `prepare` does, and StartFailed; nothing stays then."""
        self.prepare()
        try:
            for index in range(self.brokers):
                self._start_broker(index)
            self.wait_ready(timeout_s)
        except BaseException:
            self.stop()
            raise
        return self

    def wait_ready(self, timeout_s: float = START_WAIT_S, brokers: int | None = None) -> None:
        """Wait until `brokers` (None: all) serve clients. Raises StartFailed when one has ended or time is up."""
        wanted = self.brokers if brokers is None else brokers
        deadline = time.monotonic() + timeout_s
        while self._ready_brokers() < wanted:
            self._raise_if_ended()
            if time.monotonic() > deadline:
                raise StartFailed(self._complaint(0, f"Kafka was not ready after {timeout_s:g} s"))
            time.sleep(_POLL_S)

    def kill(self, index: int = 0, sig: signal.Signals = signal.SIGKILL) -> None:
        """Send `sig` to broker `index` and wait for its end: not for SIGSTOP and SIGCONT, after which it goes on."""
        process = self._processes[index]
        assert process is not None, f"broker {index} does not run"
        process.send_signal(sig)
        if sig not in (signal.SIGSTOP, signal.SIGCONT):
            process.wait()
            self._processes[index] = None

    def restart(self, index: int = 0, timeout_s: float = START_WAIT_S) -> None:
        """Start broker `index` again, on the same port, stopping it first if it runs; wait until it serves."""
        self._stop_brokers([index])
        self._start_broker(index)
        self.wait_ready(timeout_s, brokers=sum(pid is not None for pid in self.pids))

    def stop(self) -> None:
        """Stop all brokers (SIGTERM, after 20 s SIGKILL) and let go of the directory. Repeatable."""
        self._stop_brokers(range(self.brokers))
        self.release()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _set_up(self) -> None:
        cluster_id = _cluster_id(self.data_dir / "cluster.json", self.brokers)
        if self._fixed_port is not None and not ports.is_free(self._fixed_port):
            msg = f"Port {self._fixed_port}, wanted for Kafka, is in use. Stop what listens there, or name another."
            raise PortTaken(msg)
        for index in range(self.brokers):
            self._await_orphan(index)
        self._ports = ports.remembered(self.data_dir / "ports.json", 2 * self.brokers, self._fixed_port)
        for index in range(self.brokers):
            broker_config.write(self.folder(index), index, self._ports, self._overrides)
            self._format(index, cluster_id)

    def _await_orphan(self, index: int) -> None:
        """A broker whose parent was killed must be gone before its ports are looked at."""
        lock = self.folder(index) / broker_config.DATA_FOLDER / ".lock"
        deadline = time.monotonic() + _ORPHAN_WAIT_S
        while is_locked_by_other(lock):
            if time.monotonic() > deadline:
                msg = f"A Kafka broker still runs in {self.folder(index)}. End it: it is a `java` process with kafka.Kafka."
                raise DirectoryInUse(msg)
            time.sleep(_POLL_S)

    def _format(self, index: int, cluster_id: str) -> None:
        if (self.folder(index) / broker_config.DATA_FOLDER / "meta.properties").exists():
            return
        arguments = ["format", "--ignore-formatted", "-t", cluster_id, "-c", broker_config.PROPERTIES_FILE]
        command = broker_config.java_command(
            java(), self._libs, archive_options(), "kafka.tools.StorageTool", arguments
        )
        done = subprocess.run(command, cwd=self.folder(index), capture_output=True, text=True, check=False)
        if done.returncode != 0:
            msg = f"Kafka's storage could not be formatted (exit {done.returncode}): {done.stderr or done.stdout}"
            raise StartFailed(msg)

    def _start_broker(self, index: int) -> None:
        folder = self.folder(index)
        self._processes[index] = spawn(self.command(index), log_file=folder / _STDOUT_FILE, cwd=folder)

    def _stop_brokers(self, indexes: Sequence[int]) -> None:
        running = [process for index in indexes if (process := self._processes[index]) is not None]
        for process in running:
            process.send_signal(signal.SIGCONT)  # a broker that a test has stopped would never see the next signal
            process.terminate()
        deadline = time.monotonic() + STOP_WAIT_S
        for process in running:
            _wait_or_kill(process, deadline)
        for index in indexes:
            self._processes[index] = None

    def _ready_brokers(self) -> int:
        """How many brokers the cluster knows, 0 while no port answers.

        The cheap look at the ports comes first: a Kafka client that finds nobody backs off for seconds.
        """
        if not any(ports.accepts(port) for port in self._ports[::2]):
            return 0
        return _registered_brokers(self.bootstrap_servers)

    def _raise_if_ended(self) -> None:
        for index, process in enumerate(self._processes):
            if process is not None and process.poll() is not None:
                raise StartFailed(self._complaint(index, f"Kafka's broker {index + 1} ended ({process.returncode})"))

    def _complaint(self, index: int, what: str) -> str:
        said = "".join(_tail(self.folder(index) / name) for name in (_STDOUT_FILE, broker_config.LOG_FILE))
        return f"{what}; its log is {self.log_file(index)}.\n{said}"


def _cluster_id(file: Path, brokers: int) -> str:
    """The id of the directory's cluster, made anew for an empty one: clients refuse a cluster that changed its id."""
    if not file.exists():
        draft = file.with_suffix(".new")
        draft.write_text(json.dumps({"cluster_id": spell_cluster_id(uuid.uuid4()), "brokers": brokers}))
        draft.replace(file)
    known = json.loads(file.read_text())
    if known["brokers"] != brokers:
        msg = f"{file.parent} was made for {known['brokers']} broker(s), not {brokers}. Choose another data directory."
        raise DirectoryMismatch(msg)
    return str(known["cluster_id"])


def spell_cluster_id(made_from: uuid.UUID) -> str:
    """A cluster's id in Kafka's own spelling, which never begins with a dash: its tools would read an option."""
    text = base64.urlsafe_b64encode(made_from.bytes).decode().rstrip("=")
    return f"A{text[1:]}" if text.startswith("-") else text


def _registered_brokers(bootstrap_servers: str) -> int:
    settings = {
        "bootstrap.servers": bootstrap_servers,
        "reconnect.backoff.ms": 20,
        "reconnect.backoff.max.ms": 100,
        "log_level": 0,
    }
    try:
        return len(AdminClient(settings).list_topics(timeout=1).brokers)
    except KafkaException:
        return 0


def _wait_or_kill(process: Process, deadline: float) -> None:
    try:
        process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _tail(file: Path, chars: int = 2000) -> str:
    return file.read_text(errors="replace")[-chars:] if file.exists() else ""

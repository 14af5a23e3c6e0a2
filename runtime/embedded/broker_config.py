"""What a broker of the embedded Kafka is told: its properties, its log settings and its command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from runtime.embedded.jars import classpath
from runtime.embedded.ports import LOOPBACK

HEAP_MIB_MAX = 256  # 158 MB resident under the tests' load
_YEAR_MINUTES = 365 * 24 * 60

# Relative paths throughout: the JVM runs in the broker's own folder, so that no path of the user's (with a comma, a
# space or an umlaut) has to pass through Java's properties syntax.
PROPERTIES_FILE = "server.properties"
LOG4J_FILE = "log4j2.properties"
DATA_FOLDER = "log"
LOG_FILE = "broker.log"
_LOG4J = f"""status=error
rootLogger.level=warn
rootLogger.appenderRef.file.ref=FILE
appender.file.type=RollingFile
appender.file.name=FILE
appender.file.fileName={LOG_FILE}
appender.file.filePattern={LOG_FILE}.%i
appender.file.layout.type=PatternLayout
appender.file.layout.pattern=%d{{ISO8601}} %p %m (%c)%n
appender.file.policies.type=Policies
appender.file.policies.size.type=SizeBasedTriggeringPolicy
appender.file.policies.size.size=10MB
appender.file.strategy.type=DefaultRolloverStrategy
appender.file.strategy.max=2
"""


def write(folder: Path, index: int, ports: Sequence[int], overrides: Mapping[str, object]) -> None:
    """Write the files that broker `index` (from 0) reads; `ports` has a client and a controller port per broker."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {**properties(index, ports), **overrides}
    text = "".join(f"{key}={value}\n" for key, value in settings.items())
    (folder / PROPERTIES_FILE).write_text(text)
    (folder / LOG4J_FILE).write_text(_LOG4J)


def properties(index: int, ports: Sequence[int]) -> dict[str, object]:
    """The broker's properties. Replication is 3 from three brokers on, else 1."""
    brokers = len(ports) // 2
    replicas = 3 if brokers >= 3 else 1
    return (
        _identity(index, ports)
        | _replication(replicas, min_in_sync=2 if replicas == 3 else 1)
        | _SMALL
        | _FAST_RECOVERY
        | _LIMITS
    )


def _identity(index: int, ports: Sequence[int]) -> dict[str, object]:
    voters = (f"{node + 1}@{LOOPBACK}:{port}" for node, port in enumerate(ports[1::2]))
    client, controller = f"PLAINTEXT://{LOOPBACK}:{ports[2 * index]}", f"CONTROLLER://{LOOPBACK}:{ports[2 * index + 1]}"
    return {
        "process.roles": "broker,controller",
        "node.id": index + 1,
        "controller.quorum.voters": ",".join(voters),
        "listeners": f"{client},{controller}",
        "advertised.listeners": client,
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "log.dirs": DATA_FOLDER,
        # A misspelt topic must be an error at its client, not a new topic with the wrong settings.
        "auto.create.topics.enable": "false",
    }


def _replication(replicas: int, *, min_in_sync: int) -> dict[str, object]:
    return {
        "default.replication.factor": replicas,
        "min.insync.replicas": min_in_sync,
        "offsets.topic.replication.factor": replicas,
        "transaction.state.log.replication.factor": replicas,
        "transaction.state.log.min.isr": min_in_sync,
        "share.coordinator.state.topic.replication.factor": replicas,
        "share.coordinator.state.topic.min.isr": min_in_sync,
    }


# 50 partitions of each internal topic, the default, make every start slower and nothing better on one machine.
_SMALL: dict[str, object] = {
    "offsets.topic.num.partitions": 4,
    "transaction.state.log.num.partitions": 4,
    "share.coordinator.state.topic.num.partitions": 1,
    "num.network.threads": 2,
    "num.io.threads": 4,
    "log.cleaner.dedupe.buffer.size": 8 << 20,
    "offsets.load.buffer.size": 1 << 20,
}

_FAST_RECOVERY: dict[str, object] = {
    # Until it has passed the controller believes in a killed broker, and a restart waits. With 1 s a restart took 1.9 s, but
    # then a broker that merely got no processor for a second was fenced: all partitions lost their leader, and a transaction
    # that was committed at that moment never got its markers (Kafka 4.3.1 takes a partition without a leader for deleted).
    "broker.session.timeout.ms": 6000,
    "broker.heartbeat.interval.ms": 200,
    "group.initial.rebalance.delay.ms": 0,
    "group.min.session.timeout.ms": 1000,
    "log.initial.task.delay.ms": 2000,
    # Readers of committed data wait at a dead producer's open transaction until it is aborted: look for those each
    # second instead of each ten.
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": 1000,
}

_LIMITS: dict[str, object] = {
    "transaction.max.timeout.ms": 60_000,
    "message.max.bytes": 4 << 20,
    "replica.fetch.max.bytes": 4 << 20,
    # A stack that was off for longer than the default week must still find its groups' offsets.
    "offsets.retention.minutes": _YEAR_MINUTES,
}


def java_command(java: str, libs: Path, options: Sequence[str], main: str, arguments: Sequence[str]) -> list[str]:
    """A JVM of the broker's jars, to be run in the broker's folder."""
    return [
        java,
        "-Xms64m",
        f"-Xmx{HEAP_MIB_MAX}m",
        # C1 and the serial collector: half the start-up time of the server defaults, and far less memory.
        "-XX:TieredStopAtLevel=1",
        "-XX:+UseSerialGC",
        # A broker that is out of memory must end, so that it is restarted, instead of serving some requests only.
        "-XX:+ExitOnOutOfMemoryError",
        "-Djava.awt.headless=true",
        f"-Dlog4j2.configurationFile={LOG4J_FILE}",
        *options,
        "-cp",
        classpath(libs),
        main,
        *arguments,
    ]

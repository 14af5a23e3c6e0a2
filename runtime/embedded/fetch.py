"""`meterlog embedded fetch`: whatever the embedded stack needs from outside, and what makes its starts fast."""

from __future__ import annotations

import tempfile
from pathlib import Path

from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from runtime.embedded.archive import archive_file
from runtime.embedded.jars import Report, fetch_jars, only_one, remove_leftovers, silent
from runtime.embedded.kafka import EmbeddedKafka
from runtime.embedded.tools import check_java

_CLIENT_WAIT_S = 30


def fetch(report: Report = silent) -> Path:
    """Fetch the broker's jars and write its class archive, each only if it is not there; the folder that holds both.

    `report` gets a sentence before each step that takes seconds. Repeatable and safe in several processes at once.
    Raises ToolMissing, FetchFailed, StartFailed. A Java that cannot write archives is reported, not an error: brokers
    start without one, only slower.
    """
    check_java()
    libs = fetch_jars(report)
    with only_one(libs.parent):
        if not archive_file().exists():
            report("writing the class archive that halves Kafka's start-up time")
            remove_leftovers(libs.parent, "archiving-*")
            _write_archive()
    if not archive_file().exists():
        report("this Java writes no class archives; Kafka will start without")
    report(f"Kafka is ready in {libs.parent}")
    return libs.parent


def _write_archive() -> None:
    """Run a broker through what brokers do, and let its JVM write down the classes that it loaded as it ends.

    The archive gets its name only when it is complete.
    """
    target = archive_file()
    with tempfile.TemporaryDirectory(prefix="archiving-", dir=target.parent) as scratch:
        draft = Path(scratch) / "classes.jsa"
        with EmbeddedKafka(Path(scratch) / "kafka", jvm_options=[f"-XX:ArchiveClassesAtExit={draft}"]) as kafka:
            _exercise(kafka.bootstrap_servers)
        if draft.exists():
            draft.replace(target)


def _exercise(bootstrap_servers: str) -> None:
    """A topic, a transaction and a group, so that the classes behind them are in the archive too."""
    cluster = {"bootstrap.servers": bootstrap_servers, "log_level": 0}
    admin = AdminClient(cluster)
    for created in admin.create_topics([NewTopic("exercise", 1)]).values():
        created.result(_CLIENT_WAIT_S)
    producer = Producer(cluster | {"transactional.id": "exercise"})
    producer.init_transactions(_CLIENT_WAIT_S)
    producer.begin_transaction()
    producer.produce("exercise", b"value")
    producer.commit_transaction(_CLIENT_WAIT_S)
    consumer = Consumer(cluster | {"group.id": "exercise", "auto.offset.reset": "earliest"})
    consumer.subscribe(["exercise"])
    record = consumer.poll(_CLIENT_WAIT_S)
    if record is not None and record.error() is None:
        consumer.commit(record, asynchronous=False)
    consumer.close()

"""The embedded Kafka: a real broker, killed, restarted and opened again."""

from __future__ import annotations

import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from runtime.embedded import ports
from runtime.embedded.archive import archive_file
from runtime.embedded.errors import DirectoryInUse, DirectoryMismatch, PortTaken, StartFailed
from runtime.embedded.fetch import fetch
from runtime.embedded.jars import fetch_jars, kafka_dir
from runtime.embedded.kafka import EmbeddedKafka
from runtime.supervisor import Child, Supervisor
from tests.runtime.processes import first_line, is_gone, python
from tests.waiting import wait_until

pytestmark = pytest.mark.broker


def write(kafka: EmbeddedKafka, topic: str, *values: bytes) -> None:
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "acks": "all", "log_level": 0})
    for value in values:
        producer.produce(topic, value, partition=0)
    assert producer.flush(30) == 0


def read(kafka: EmbeddedKafka, topic: str) -> list[bytes]:
    settings = {"bootstrap.servers": kafka.bootstrap_servers, "group.id": "reader", "enable.partition.eof": True}
    consumer = Consumer(settings | {"log_level": 0, "enable.auto.commit": False})
    consumer.assign([TopicPartition(topic, 0, 0)])
    values = []
    while (message := consumer.poll(30)) is not None and message.error() is None:
        values.append(message.value())
    assert message is not None, "the end of the partition was not reached in 30 s"
    assert message.error().code() == KafkaError._PARTITION_EOF
    consumer.close()
    return values


def create(kafka: EmbeddedKafka, topic: str) -> None:
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers, "log_level": 0})
    admin.create_topics([NewTopic(topic, 1)])[topic].result(30)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedKafka]:
    """A broker that these tests may kill."""
    with EmbeddedKafka(tmp_path_factory.mktemp("own")) as kafka:
        yield kafka


def test_acknowledged_records_survive_sigkill_and_the_address_stays(own: EmbeddedKafka) -> None:
    create(own, "survives")
    write(own, "survives", b"one", b"two")
    address, pid = own.bootstrap_servers, own.pid
    own.kill(sig=signal.SIGKILL)
    assert own.pids == [None]
    own.restart()
    assert own.pid not in (None, pid)
    assert own.bootstrap_servers == address
    assert read(own, "survives") == [b"one", b"two"]


def test_a_directory_opened_again_continues_at_the_same_address(tmp_path: Path) -> None:
    with EmbeddedKafka(tmp_path) as kafka:
        address = kafka.bootstrap_servers
        create(kafka, "kept")
        write(kafka, "kept", b"value")
    with EmbeddedKafka(tmp_path) as kafka:
        assert kafka.bootstrap_servers == address
        assert read(kafka, "kept") == [b"value"]


def test_a_directory_whose_ports_are_taken_continues_at_others(tmp_path: Path) -> None:
    with EmbeddedKafka(tmp_path) as kafka:
        address = kafka.bootstrap_servers
        create(kafka, "kept")
        write(kafka, "kept", b"value")
    with socket.socket() as one, socket.socket() as two:
        for taker, port in zip((one, two), ports.known(tmp_path / "ports.json"), strict=True):
            taker.bind((ports.LOOPBACK, port))
            taker.listen()
        with EmbeddedKafka(tmp_path) as kafka:
            assert kafka.bootstrap_servers != address
            assert read(kafka, "kept") == [b"value"]


def test_a_path_with_signs_that_mean_something_to_java_works(tmp_path: Path) -> None:
    with EmbeddedKafka(tmp_path / "a,b c=d:é#1") as kafka:
        create(kafka, "topic")
        assert kafka.log_file().exists()


def test_a_misspelt_topic_is_an_error_and_not_a_new_topic(kafka: EmbeddedKafka) -> None:
    failures: list[KafkaError] = []
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "log_level": 0, "message.timeout.ms": 3000})
    producer.produce("misspelt", b"value", on_delivery=lambda error, _message: failures.append(error))
    producer.flush(30)
    assert len(failures) == 1
    assert failures[0] is not None


def test_transactions_may_last_a_minute_and_no_longer(kafka: EmbeddedKafka) -> None:
    settings = {"bootstrap.servers": kafka.bootstrap_servers, "transactional.id": "embedded-limits", "log_level": 0}
    producer = Producer(settings | {"transaction.timeout.ms": 60_000})
    producer.init_transactions(30)
    producer = Producer(settings | {"transaction.timeout.ms": 60_001})
    with pytest.raises(KafkaException, match="INVALID_TRANSACTION_TIMEOUT"):
        producer.init_transactions(30)


def test_a_second_opener_of_a_directory_is_refused_while_the_first_lives(own: EmbeddedKafka) -> None:
    with pytest.raises(DirectoryInUse, match="in use by another process"):
        EmbeddedKafka(own.data_dir).start()
    assert own.is_ready()


def test_a_directory_keeps_its_number_of_brokers(own: EmbeddedKafka, tmp_path: Path) -> None:
    (tmp_path / "cluster.json").write_text((own.data_dir / "cluster.json").read_text())
    with pytest.raises(DirectoryMismatch, match=r"made for 1 broker\(s\), not 3"):
        EmbeddedKafka(tmp_path, brokers=3).prepare()


def test_a_fixed_port_is_used(tmp_path: Path) -> None:
    [port] = ports.pick(1)
    with EmbeddedKafka(tmp_path, port=port) as kafka:
        assert kafka.bootstrap_servers == f"127.0.0.1:{port}"


def test_a_fixed_port_that_is_taken_is_refused_by_name(own: EmbeddedKafka, tmp_path: Path) -> None:
    port = int(own.bootstrap_servers.rpartition(":")[2])
    with pytest.raises(PortTaken, match=str(port)):
        EmbeddedKafka(tmp_path, port=port).start()


def test_a_broker_that_cannot_start_says_why_and_lets_go_of_the_directory(tmp_path: Path) -> None:
    kafka = EmbeddedKafka(tmp_path, overrides={"num.io.threads": "none"})
    with pytest.raises(StartFailed, match=r"num\.io\.threads"):
        kafka.start()
    assert kafka.pid is None
    with EmbeddedKafka(tmp_path) as mended:
        assert mended.is_ready()


def test_a_stopped_broker_goes_on_and_can_be_ended(tmp_path: Path) -> None:
    with EmbeddedKafka(tmp_path) as kafka:
        pid = kafka.pid
        assert pid is not None
        kafka.kill(sig=signal.SIGSTOP)
        assert not kafka.is_ready()
        kafka.kill(sig=signal.SIGCONT)
        kafka.wait_ready()
        kafka.kill(sig=signal.SIGSTOP)
    assert is_gone(pid)


def test_three_brokers_lose_one_and_go_on(tmp_path: Path) -> None:
    with EmbeddedKafka(tmp_path, brokers=3) as kafka:
        create(kafka, "replicated")
        write(kafka, "replicated", b"before")
        kafka.kill(1)
        kafka.wait_ready(brokers=2)
        write(kafka, "replicated", b"without")
        kafka.restart(1)
        kafka.wait_ready()
        assert read(kafka, "replicated") == [b"before", b"without"]


def test_under_a_supervisor_a_killed_broker_comes_back_at_its_address(tmp_path: Path) -> None:
    kafka = EmbeddedKafka(tmp_path / "kafka")
    kafka.prepare()
    with Supervisor() as supervisor:
        log = tmp_path / "kafka.log"
        supervisor.start(Child("kafka", kafka.command(), log, cwd=kafka.folder(), is_ready=kafka.is_ready))
        supervisor.wait_ready("kafka")
        create(kafka, "supervised")
        write(kafka, "supervised", b"value")
        supervisor.kill("kafka", signal.SIGKILL)
        wait_until(lambda: supervisor.status()[0].restarts == 1, "its death was seen")
        supervisor.wait_ready("kafka")
        assert read(kafka, "supervised") == [b"value"]
    kafka.release()


def test_fetch_writes_the_class_archive_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    libs = fetch_jars()
    monkeypatch.setenv("METERLOG_CACHE", str(tmp_path))
    kafka_dir().mkdir(parents=True)
    (kafka_dir() / "libs").symlink_to(libs)
    kafka = EmbeddedKafka(tmp_path / "kafka")
    said: list[str] = []
    fetch(said.append)
    assert archive_file().stat().st_size > 10 << 20
    assert any("class archive" in line for line in said)
    kafka.prepare()
    assert f"-XX:SharedArchiveFile={archive_file()}" in kafka.command()
    kafka.release()
    written = archive_file().stat().st_mtime_ns
    fetch()
    assert archive_file().stat().st_mtime_ns == written
    assert sorted(path.name for path in kafka_dir().iterdir()) == sorted([archive_file().name, "libs", "lock"])


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children of a killed parent")
def test_a_killed_parent_leaves_no_broker_and_its_directory_opens_at_once(tmp_path: Path) -> None:
    script = """
import pathlib, sys, time
from runtime.embedded.kafka import EmbeddedKafka
kafka = EmbeddedKafka(pathlib.Path(sys.argv[1])).start()
print(kafka.pid, flush=True)
time.sleep(600)
"""
    parent = python(script, tmp_path)
    pid = int(first_line(parent))
    parent.kill()
    parent.wait()
    with EmbeddedKafka(tmp_path) as kafka:
        assert is_gone(pid)
        assert kafka.is_ready()

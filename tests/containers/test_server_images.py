"""The processes of docker-compose.yml against Kafka's and ClickHouse's own images, where there is a container engine.

The same run over the embedded parts shows that it is the servers that differ, and nothing else.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from confluent_kafka import Producer
from testcontainers.community.kafka import KafkaContainer
from testcontainers.core.container import DockerContainer

from runtime.auditing import run_audit
from runtime.embedded import clickhouse, ports
from runtime.embedded.kafka import EmbeddedKafka
from runtime.settings import load_settings, write_stack_file
from runtime.supervisor import Child, Supervisor
from runtime.topics import create_topics
from runtime.trace import Feed, read_trace
from schemas.codec import encode
from schemas.topics import USAGE_EVENTS

EVENTS = 2_000

PASSWORD = "for-this-test-alone"


class Servers(NamedTuple):
    bootstrap_servers: str
    clickhouse_url: str
    clickhouse_user: str
    clickhouse_password: str


@contextmanager
def embedded_servers(tmp_path: Path) -> Iterator[Servers]:
    with ExitStack() as stack:
        kafka = stack.enter_context(EmbeddedKafka(tmp_path / "kafka"))
        at = clickhouse.endpoint(tmp_path / "clickhouse")
        supervisor = stack.enter_context(Supervisor())
        command = (sys.executable, "-m", "runtime.embedded.clickhouse", "--data-dir", str(tmp_path / "clickhouse"))
        log = tmp_path / "clickhouse.log"
        supervisor.start(Child("clickhouse", command, log, is_ready=lambda: clickhouse.is_ready(at)))
        supervisor.wait_ready("clickhouse")
        yield Servers(kafka.bootstrap_servers, at.url, at.user, at.password)


@contextmanager
def image_servers(_: Path) -> Iterator[Servers]:
    command = shutil.which("docker")
    asked = None if command is None else subprocess.run([command, "info"], capture_output=True, check=False)
    if asked is None or asked.returncode != 0:
        pytest.skip("no container engine answers here; with one, this runs against the server images")
    environment = {"CLICKHOUSE_DB": "meterlog", "CLICKHOUSE_USER": "meterlog", "CLICKHOUSE_PASSWORD": PASSWORD}
    server = DockerContainer("clickhouse/clickhouse-server:26.9", env=environment, ports=[8123])
    with KafkaContainer("apache/kafka:4.3.1").with_kraft() as kafka, server as running:
        url = f"http://{running.get_container_host_ip()}:{running.get_exposed_port(8123)}"
        yield Servers(kafka.get_bootstrap_server(), url, "meterlog", PASSWORD)


@pytest.mark.broker
@pytest.mark.parametrize("servers_of", [embedded_servers, image_servers], ids=["embedded", "images"])
def test_the_processes_of_production_count_a_feed_exactly(servers_of: object, tmp_path: Path) -> None:
    assert callable(servers_of)
    with servers_of(tmp_path) as servers, Supervisor() as supervisor:
        create_topics(servers.bootstrap_servers, 3, 1, b"k" * 32)
        environment = _environment(servers, tmp_path)
        write_stack_file(tmp_path, environment)
        for words in (("embedded", "stripe"), ("worker",), ("sink", "clickhouse"), ("sink", "stripe")):
            command = (sys.executable, "-m", "runtime", *words)
            name = "-".join(words)
            supervisor.start(Child(name, command, tmp_path / f"{name}.log", env={**os.environ, **environment}))
        sent = _send(servers.bootstrap_servers)
        settings = load_settings(tmp_path)
        audit = run_audit(settings, wait_s=90)
        without_stripe = run_audit(settings.model_copy(update={"stripe_url": None}), wait_s=90)
    assert without_stripe.holds, "a deployment without a Stripe sink has no book of Stripe's to agree"
    assert len(without_stripe.not_compared) == 1
    assert audit.differences == []
    assert audit.holds
    assert audit.sum_of("accepted") == sent
    assert audit.not_compared == []


def _environment(servers: Servers, tmp_path: Path) -> dict[str, str]:
    (stripe_port,) = ports.pick(1)
    return {
        "METERLOG_BOOTSTRAP_SERVERS": servers.bootstrap_servers,
        "METERLOG_DATA_DIR": str(tmp_path),
        "METERLOG_CLICKHOUSE_URL": servers.clickhouse_url,
        "METERLOG_CLICKHOUSE_USER": servers.clickhouse_user,
        "METERLOG_CLICKHOUSE_PASSWORD": servers.clickhouse_password,
        "METERLOG_STRIPE_URL": f"http://127.0.0.1:{stripe_port}",
        "METERLOG_STRIPE_SEND_INTERVAL_S": "1",
    }


def _send(bootstrap_servers: str) -> int:
    """The beginning of the demo's feed; the number of records acknowledged."""
    producer = Producer({"bootstrap.servers": bootstrap_servers, "partitioner": "murmur2_random"})
    count = 0
    for sent in Feed(read_trace()[:EVENTS], time.time_ns() // 1_000_000):
        producer.produce(USAGE_EVENTS, sent.value or encode(sent.event), str(sent.account).encode())
        count += 1
    assert producer.flush(30) == 0
    return count

"""docs/producers.md: what it shows is run, and what it says of fields, reasons and limits is so."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from api.bodies import BODY_BYTES_MAX
from api.items import EVENTS_MAX
from billing.facts import Reason
from billing.metering import rules
from billing.records import UsageEvent
from billing.routing import partition_of
from runtime.embedded.jars import fetch_jars
from tests.api.process import PARTITIONS, ApiProcess, on_topic

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "producers.md").read_text()
SAMPLES = dict(re.findall(r"<!-- runs: (\S+) -->\n```\w+\n(.*?)```", TEXT, re.DOTALL))


def run(command: list[str], **environment: str) -> str:
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_sample_is_run_here() -> None:
    assert set(SAMPLES) == {"native.sh", "cloudevents.sh", "producer.py", "UsageProducer.java"}


@pytest.mark.parametrize(("name", "count"), [("native.sh", 2), ("cloudevents.sh", 1)])
def test_the_curl_samples_are_accepted(
    api: ApiProcess, client: httpx.Client, broker: str, org: str, name: str, count: int
) -> None:
    key = client.headers["Authorization"].removeprefix("Bearer ")
    answer = run(["bash", "-euc", SAMPLES[name]], METERLOG_URL=api.url, KEY=key)
    assert answer == f'{{"accepted":{count},"rejected":[]}}'
    events = [event for _, event in on_topic(broker, org)]
    assert len(events) == count
    assert events[0].customer_id == "cust-1"
    if name == "cloudevents.sh":
        assert f"`{events[0].event_id}`" in TEXT


def check_sent(broker: str, org: str, said: str) -> UsageEvent:
    [(partition, event)] = on_topic(broker, org)
    assert said == f"on the log: {event.event_id}\n"
    assert partition == partition_of(f"{org}/{event.customer_id}".encode(), PARTITIONS)
    rules.check_fields(event)
    assert (event.event_type, event.model, event.input_tokens, event.output_tokens) == (
        "llm.call",
        "gpt-5-mini",
        512,
        256,
    )
    return event


def test_the_python_producer_runs(tmp_path: Path, broker: str, org: str) -> None:
    (tmp_path / "producer.py").write_text(SAMPLES["producer.py"])
    event = check_sent(broker, org, run([sys.executable, str(tmp_path / "producer.py"), broker, org]))
    assert (event.quantity, event.status, event.properties) == ("1", "succeeded", {})


def test_the_java_producer_compiles_and_runs(tmp_path: Path, broker: str, org: str) -> None:
    """Run as source: a JDK compiles it; a JRE alone cannot."""
    if shutil.which("javac") is None:
        pytest.skip("no JDK here (javac), only a JRE: the Java producer of docs/producers.md is not compiled")
    source = tmp_path / "UsageProducer.java"
    source.write_text(SAMPLES["UsageProducer.java"])
    classpath = os.pathsep.join(str(jar) for jar in sorted(fetch_jars().glob("*.jar")))
    event = check_sent(broker, org, run(["java", "-cp", classpath, str(source), broker, org]))
    assert event.properties == {"region": "eu"}


def test_every_field_and_reason_of_an_event_is_explained() -> None:
    for field in UsageEvent.__struct_fields__:
        assert f"`{field.removesuffix('_us')}`" in TEXT, field
    of_commands = {Reason.UNSIGNED, Reason.STALE, Reason.QUARANTINED}
    for reason in set(Reason) - of_commands:
        assert f"`{reason.value}`" in TEXT, reason


def test_the_limits_are_those_of_the_code() -> None:
    assert f"{EVENTS_MAX:,} events and {BODY_BYTES_MAX // 2**20} MiB" in TEXT
    assert f"{rules.WINDOW_MS // 86_400_000} days back to {rules.FUTURE_MS_MAX // 60_000} minutes ahead" in TEXT
    assert f"at most {rules.ID_BYTES_MAX} bytes" in TEXT
    assert f"at most {rules.LABEL_BYTES_MAX} bytes, {rules.PAIRS_PER_DAY_MAX} pairs" in TEXT
    assert f"at most {rules.TAGS_MAX} of {rules.LABEL_BYTES_MAX} bytes" in TEXT
    properties = (rules.PROPERTIES_MAX, rules.LABEL_BYTES_MAX, rules.PROPERTY_BYTES_MAX)
    assert "at most {}, names of {} and values of {:,} bytes".format(*properties) in TEXT

"""A real stack under watch: every declared figure is there, and health turns red when counting stops, whatever stopped it."""

from __future__ import annotations

import json
import re
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from observe.metrics import CLICKHOUSE_RETRIES, METRICS, Role
from runtime.stack import WATCHED, Stack
from tests.faults.command import ROOT, create_key, run_json
from tests.faults.load import ORGS, HttpDoor, KafkaDoor
from tests.faults.naive import Model
from tests.faults.stopping_worker import POISONED_CUSTOMER, clock_is_back
from tests.faults.wire import record_of
from tests.waiting import wait_until

pytestmark = [pytest.mark.broker, pytest.mark.faults]

BOUND_S = 5.0
_SLACK_S = 40.0
"""For two cores that others use as well; the figure that counts is printed."""
_SELDOM = {CLICKHOUSE_RETRIES}
"""Has a value once something has failed."""


@pytest.fixture(autouse=True)
def bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METERLOG_HEALTH_FOLD_AGE_S_MAX", str(BOUND_S))
    monkeypatch.setenv("METERLOG_HEALTH_SINK_AGE_S_MAX", str(BOUND_S))


@contextmanager
def started(data_dir: Path, worker_command: Sequence[str] | None = None) -> Iterator[Stack]:
    with Stack(data_dir, api_port=0, stripe_send_interval_s=0.5, worker_command=worker_command) as made:
        for _ in made.start():
            pass
        yield made


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    with started(tmp_path) as made:
        yield made


@pytest.fixture
def stack_that_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:
    """Its worker has a rule that raises, and a clock that can be set back."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with started(tmp_path, (sys.executable, "-m", "tests.faults.stopping_worker")) as made:
        yield made


def get(url: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
    except OSError:
        return 0, b"{}"  # it is down


def health_of(url: str) -> tuple[int, dict[str, Any]]:
    status, body = get(url)
    return status, json.loads(body)


def state_of(health: dict[str, Any], name: str) -> str | None:
    return next((check["state"] for check in health.get("checks", ()) if check["name"] == name), None)


def until_state(url: str, name: str, state: str) -> tuple[int, dict[str, Any]]:
    """The answer that first says so."""
    found: list[tuple[int, dict[str, Any]]] = []

    def is_there() -> bool:
        found[:] = [health_of(url)]
        return state_of(found[0][1], name) == state

    wait_until(is_there, f"{name} is {state}", BOUND_S + _SLACK_S)
    return found[0]


def figures_of(stack: Stack, name: str) -> dict[str, list[Any]]:
    """The samples that have a value, by the metric's name."""
    _, text = get(f"{stack.watch_urls[name]}/metrics")
    families = text_string_to_metric_families(text.decode())
    return {family.name: list(family.samples) for family in families if family.samples}


def missing(stack: Stack, name: str) -> list[str]:
    """Metrics of the part's role that have no value."""
    shown = figures_of(stack, name).keys()
    wanted = [metric.name for metric in METRICS if metric.role in (Role(name), Role.ANY) and metric not in _SELDOM]
    return [metric for metric in wanted if metric.removesuffix("_total") not in shown and metric not in shown]


def some_load(stack: Stack) -> Model:
    """Usage through both doors: counted, duplicate and refused."""
    now_us = time.time_ns() // 1_000
    keys = {org: create_key(stack.data_dir, org) for org in ORGS}
    http = HttpDoor(stack.api_url, keys, "watch", now_us, 1_000)
    http.wait_open()
    http.send_some(200)
    kafka = KafkaDoor(stack.settings.bootstrap_servers, "watch", now_us, 1_000)
    kafka.send_some(400)
    kafka.finish()
    model = Model()
    model += http.model
    model += kafka.model
    return model


def one_event(stack: Stack, number: int) -> None:
    door = KafkaDoor(stack.settings.bootstrap_servers, f"one-{number}", time.time_ns() // 1_000, 1_000)
    door.send(door.events.first())
    door.finish()


def test_every_part_shows_its_figures_and_health_follows_what_counts(stack: Stack) -> None:
    worker = stack.pid("worker")
    model = some_load(stack)
    for name in WATCHED:
        assert_shown(stack, name)
    if stack.pid("worker") == worker:  # a busy machine may have made it end and begin anew, which counts from 0
        assert_outcomes(stack, model)

    red_while(stack, "worker", signal.SIGSTOP, 1)
    red_while(stack, "worker", signal.SIGSTOP, 2)
    yellow_while_the_sink_is_stopped(stack)


def assert_shown(stack: Stack, name: str) -> None:
    """The part shows every figure of its role, and is well."""
    wait_until(lambda: missing(stack, name) == [], f"{name} shows every figure; not yet {missing(stack, name)}")
    wait_until(lambda: health_of(f"{stack.watch_urls[name]}/health")[0] == 200, f"{name} is well")
    assert get(f"{stack.watch_urls[name]}/livez")[0] == 200


def assert_outcomes(stack: Stack, model: Model) -> None:
    """What the worker's counters say is what was sent: nobody took over meanwhile."""

    def told() -> dict[str, int]:
        found: dict[str, int] = {}
        for sample in figures_of(stack, "worker").get("meterlog_worker_events", ()):
            if sample.name.endswith("_total"):
                found[sample.labels["outcome"]] = found.get(sample.labels["outcome"], 0) + int(sample.value)
        return found

    wait_until(lambda: told().get("counted") == len(model.counted), "all is counted")
    assert told()["rejected"] == sum(model.rejected.values())


def red_while(stack: Stack, part: str, by: signal.Signals, number: int) -> None:
    """Red within seconds once the worker stands, and green when it goes on."""
    url = f"{stack.api_url}/v1/health"
    stack.kill(part, by)
    one_event(stack, number)
    began_s = time.monotonic()
    status, health = until_state(url, "fold_progress", "red")
    print(f"red {time.monotonic() - began_s:.1f} s after an event that nobody counts; the bound is {BOUND_S} s")  # noqa: T201
    assert status == 503
    assert "has not counted the record" in message_of(health, "fold_progress")
    stack.kill(part, signal.SIGKILL)  # the supervisor starts it anew
    wait_until(lambda: health_of(url)[1].get("status") == "green", "health is green again", 60.0)


def yellow_while_the_sink_is_stopped(stack: Stack) -> None:
    url = f"{stack.api_url}/v1/health"
    stack.kill("sink clickhouse", signal.SIGSTOP)
    one_event(stack, 3)
    _, health = until_state(url, "clickhouse_sink", "yellow")
    assert state_of(health, "fold_progress") == "green", "events are taken and counted"
    stack.kill("sink clickhouse", signal.SIGKILL)
    wait_until(lambda: health_of(url)[1].get("status") == "green", "health is green again", 60.0)


def test_a_partition_that_stands_is_red_with_the_order_that_goes_on(stack_that_stops: Stack) -> None:
    stack = stack_that_stops
    red_until_the_clock_comes(stack)
    red_while_parked(stack)


def red_until_the_clock_comes(stack: Stack) -> None:
    """The worker's clock is a year back: to it, what the broker logs comes from next year."""
    api, worker = f"{stack.api_url}/v1/health", f"{stack.watch_urls['worker']}/health"
    clock_is_back(stack.data_dir).touch()
    one_event(stack, 4)
    until_state(api, "fold_progress", "red")
    status, health = until_state(worker, "fold_stands", "red")
    assert status == 503
    assert "meterlog freeze-time --partition" in message_of(health, "fold_stands")
    assert get(f"{stack.watch_urls['worker']}/livez")[0] == 200, "a restart would change nothing"
    clock_is_back(stack.data_dir).unlink()
    wait_until(lambda: health_of(api)[1].get("status") == "green", "it goes on by itself", 60.0)
    wait_until(lambda: health_of(worker)[0] == 200, "the worker is well", 60.0)


def red_while_parked(stack: Stack) -> None:
    """The API says what the worker left beside its offset: why it stands, and the command."""
    api = f"{stack.api_url}/v1/health"
    door = KafkaDoor(stack.settings.bootstrap_servers, "poison", time.time_ns() // 1_000, 1_000)
    door.produce(record_of(door.events.first()._replace(customer=POISONED_CUSTOMER)))
    door.finish()
    said = message_of(until_state(api, "fold_stands", "red")[1], "fold_stands")
    assert "ZeroDivisionError" in said
    assert "meterlog quarantine --partition" in said
    stack.kill("worker", signal.SIGKILL)
    worker = f"{stack.watch_urls['worker']}/health"
    until_state(worker, "fold_stands", "red")
    assert message_of(until_state(api, "fold_stands", "red")[1], "fold_stands") == said
    [command] = re.findall(r"meterlog (quarantine --partition \d+ --offset \d+)", said)
    run_json(*command.split(), "--json", data_dir=stack.data_dir)
    wait_until(lambda: health_of(api)[1].get("status") == "green", "the order that it names lets it go on", 60.0)


def message_of(health: dict[str, Any], name: str) -> str:
    return next(str(check["message"]) for check in health["checks"] if check["name"] == name)

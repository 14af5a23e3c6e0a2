"""What a process shows of itself over HTTP."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from observe.figures import Figures
from observe.health import CheckName, CheckState, HealthBoard
from observe.metrics import METRICS, WORKER_COMMIT_S, WORKER_EVENTS, WORKER_LAG, Role
from runtime.errors import CommandError
from runtime.settings import Settings
from runtime.watch import Watch, start_watch


class Clock:
    now_s = 5.0


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def board(clock: Clock) -> HealthBoard:
    return HealthBoard(lambda: clock.now_s)


@pytest.fixture
def figures() -> Figures:
    return Figures()


@pytest.fixture
def watch(board: HealthBoard, figures: Figures) -> Iterator[Watch]:
    made = Watch(Role.WORKER, "127.0.0.1", 0, 30.0, figures, board)
    yield made
    made.close()


def samples(watch: Watch) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = httpx.get(f"{watch.url}/metrics").text
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_are_in_prometheus_form(watch: Watch, figures: Figures) -> None:
    figures.add(WORKER_EVENTS, 3, "rejected", "too_old")
    figures.set_all(WORKER_LAG, {(0,): 7})
    for value in (0.002, 0.3, 99.0):
        figures.observe(WORKER_COMMIT_S, value)
    found = samples(watch)
    assert found["meterlog_worker_events_total", (("outcome", "rejected"), ("reason", "too_old"))] == 3
    assert found["meterlog_worker_lag_offsets", (("partition", "0"),)] == 7
    assert found["meterlog_worker_commit_seconds_bucket", (("le", "0.0025"),)] == 1
    assert found["meterlog_worker_commit_seconds_bucket", (("le", "+Inf"),)] == 3
    assert found["meterlog_worker_commit_seconds_count", ()] == 3
    assert found["process_resident_memory_bytes", ()] > 0


@pytest.mark.parametrize("role", [role for role in Role if role is not Role.ANY])
def test_a_process_shows_every_metric_of_its_role_and_no_other(role: Role, board: HealthBoard) -> None:
    watch = Watch(role, "127.0.0.1", 0, 30.0, Figures(), board)
    try:
        text = httpx.get(f"{watch.url}/metrics").text
    finally:
        watch.close()
    shown = {line.split()[2] for line in text.splitlines() if line.startswith("# HELP meterlog_")}
    assert shown == {metric.name for metric in METRICS if metric.role in (role, Role.ANY)}


def test_health_is_503_only_when_a_check_is_red(watch: Watch, board: HealthBoard) -> None:
    board.report(CheckName.KAFKA)
    assert httpx.get(f"{watch.url}/health").status_code == 200
    board.report(CheckName.STRIPE, CheckState.YELLOW, "slow", "wait")
    answer = httpx.get(f"{watch.url}/health")
    assert (answer.status_code, answer.json()["status"]) == (200, "yellow")
    board.report(CheckName.KAFKA, CheckState.RED, "away", "start it")
    answer = httpx.get(f"{watch.url}/health")
    assert (answer.status_code, answer.json()["status"]) == (503, "red")
    kafka = next(check for check in answer.json()["checks"] if check["name"] == "kafka")
    assert kafka.pop("since").endswith("Z")
    assert kafka == {"name": "kafka", "state": "red", "message": "away", "do": "start it"}
    assert samples(watch)["meterlog_check_state", (("check", "kafka"),)] == 2


def test_a_red_check_is_no_reason_to_restart_and_a_hanging_loop_is(
    watch: Watch, board: HealthBoard, clock: Clock
) -> None:
    board.report(CheckName.FOLD_STANDS, CheckState.RED, "parked")
    board.turned()
    assert httpx.get(f"{watch.url}/livez").status_code == 200
    clock.now_s += 31
    assert httpx.get(f"{watch.url}/livez").status_code == 503
    assert httpx.get(f"{watch.url}/health").json()["status"] == "red"


def test_another_path_says_which_there_are(watch: Watch) -> None:
    answer = httpx.get(f"{watch.url}/")
    assert answer.status_code == 404
    assert "/metrics" in answer.text


def test_a_port_that_is_taken_is_said_with_its_setting() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        settings = Settings(bootstrap_servers="here:9092", metrics_port=taken.getsockname()[1])
        with pytest.raises(CommandError, match="METERLOG_METRICS_PORT"):
            start_watch(Role.WORKER, settings)


def test_without_a_port_nothing_listens() -> None:
    assert start_watch(Role.WORKER, Settings(bootstrap_servers="here:9092")) is None

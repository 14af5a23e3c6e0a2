"""What a 202 promises when something dies or stalls, with real processes."""

from __future__ import annotations

import json
import random
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.keys import create_key
from runtime.embedded.kafka import EmbeddedKafka
from runtime.topics import create_topics
from tests.api.events import native
from tests.api.process import PARTITIONS, ApiProcess, on_topic
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def own_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedKafka]:
    """A broker that these tests may stop."""
    with EmbeddedKafka(tmp_path_factory.mktemp("faults-kafka")) as kafka:
        create_topics(kafka.bootstrap_servers, PARTITIONS, 1, b"k" * 32)
        yield kafka


@pytest.fixture
def headers(own_kafka: EmbeddedKafka, org: str) -> dict[str, str]:
    made = create_key(own_kafka.bootstrap_servers, org, ["ingest"], time.time_ns() // 1_000_000)
    return {"Authorization": f"Bearer {made['key']}"}


def serving(folder: Path, kafka: EmbeddedKafka, **settings: Any) -> ApiProcess:
    return ApiProcess(folder, bootstrap_servers=kafka.bootstrap_servers, **settings)


def post(api: ApiProcess, headers: dict[str, str], events: list[dict[str, Any]]) -> httpx.Response:
    return httpx.post(f"{api.url}/v1/events", json={"events": events}, headers=headers, timeout=60)


def test_what_was_acknowledged_before_a_kill_is_on_the_topic(
    tmp_path: Path, own_kafka: EmbeddedKafka, headers: dict[str, str], org: str
) -> None:
    """SIGKILL at random moments under load; clients send again what was not acknowledged, as they are told to."""
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")  # noqa: T201 - shown when the test fails
    chance = random.Random(seed)
    acknowledged: set[str] = set()
    stopped = threading.Event()
    api = serving(tmp_path, own_kafka).start().wait_for_keys()

    def produce(worker: int) -> None:
        number = 0
        while not stopped.is_set():
            ids = [f"{worker}-{number}-{index}" for index in range(100)]
            try:
                answer = post(api, headers, [native(event_id, customer_id=event_id[-2:]) for event_id in ids])
            except httpx.TransportError:
                continue  # killed: the same batch again
            if answer.status_code == 202:
                acknowledged.update(ids)
                number += 1

    with ThreadPoolExecutor(4) as pool:
        workers = [pool.submit(produce, worker) for worker in range(4)]
        try:
            for _ in range(3):
                enough = len(acknowledged) + chance.randrange(500, 2_500)
                wait_until(lambda enough=enough: len(acknowledged) >= enough, "clients get on")  # type: ignore[misc]
                api.kill()
                api.start()
        finally:
            stopped.set()
            for worker in workers:
                worker.result(60)
    api.stop()
    found = {event.event_id for _, event in on_topic(own_kafka.bootstrap_servers, org)}
    assert acknowledged - found == set()
    assert len(acknowledged) >= 1_500


def test_a_stalled_broker_is_503_and_the_retry_is_taken(
    tmp_path: Path, own_kafka: EmbeddedKafka, headers: dict[str, str], org: str
) -> None:
    with serving(tmp_path, own_kafka, ack_timeout_s=2.0) as api:
        api.wait_for_keys()
        assert post(api, headers, [native("before")]).status_code == 202
        own_kafka.kill(sig=signal.SIGSTOP)
        try:
            began_s = time.monotonic()
            answer = post(api, headers, [native("during")])
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "LOG_UNAVAILABLE")
            assert int(answer.headers["retry-after"]) >= 1
            assert time.monotonic() - began_s < 10
        finally:
            own_kafka.kill(sig=signal.SIGCONT)
        wait_until(lambda: post(api, headers, [native("during")]).status_code == 202, "the retry is taken")
    ids = [event.event_id for _, event in on_topic(own_kafka.bootstrap_servers, org)]
    assert set(ids) == {"before", "during"}


def test_a_broker_that_dies_and_comes_back_is_only_a_pause(
    tmp_path: Path, own_kafka: EmbeddedKafka, headers: dict[str, str], org: str
) -> None:
    with serving(tmp_path, own_kafka, ack_timeout_s=3.0) as api:
        api.wait_for_keys()
        own_kafka.kill()
        assert post(api, headers, [native("e")]).status_code == 503
        own_kafka.restart()
        wait_until(lambda: post(api, headers, [native("e")]).status_code == 202, "it goes on")
        assert "Traceback" not in api.log
    assert {event.event_id for _, event in on_topic(own_kafka.bootstrap_servers, org)} == {"e"}


def test_a_node_that_is_full_says_so_at_once(tmp_path: Path, own_kafka: EmbeddedKafka, headers: dict[str, str]) -> None:
    with serving(tmp_path, own_kafka, ack_timeout_s=20.0, in_flight_events_max=150) as api:
        api.wait_for_keys()
        batch = [native(f"e{number}") for number in range(100)]
        own_kafka.kill(sig=signal.SIGSTOP)
        with ThreadPoolExecutor(2) as pool:
            try:
                both = [pool.submit(post, api, headers, batch) for _ in range(2)]
                # Which of the two comes first is open; the other finds no room, and is told long before the first's ack.
                (turned_away,), (taken,) = wait(both, timeout=15, return_when=FIRST_COMPLETED)
                answer = turned_away.result()
                assert answer.json()["error"]["code"] == "BUSY"
                assert answer.headers["retry-after"]
            finally:
                own_kafka.kill(sig=signal.SIGCONT)
            assert taken.result(60).status_code == 202
        wait_until(lambda: post(api, headers, batch).status_code == 202, "there is room again")
        assert "api.busy" in api.log


def test_too_many_batches_at_once_are_turned_away(
    tmp_path: Path, own_kafka: EmbeddedKafka, headers: dict[str, str]
) -> None:
    with serving(tmp_path, own_kafka, requests_max=1) as api:
        api.wait_for_keys()
        begun, release = threading.Event(), threading.Event()

        def slowly() -> Iterator[bytes]:
            begun.set()  # asked for when the head of the request has been sent
            yield b"["
            assert release.wait(30)
            yield json.dumps(native()).encode() + b"]"

        with ThreadPoolExecutor(1) as pool:
            typed = {**headers, "Content-Type": "application/json"}
            first = pool.submit(httpx.post, f"{api.url}/v1/events", content=slowly(), headers=typed, timeout=60)
            assert begun.wait(30)
            wait_until(lambda: post(api, headers, [native()]).status_code == 503, "the second is turned away")
            assert post(api, headers, [native()]).json()["error"]["code"] == "BUSY"
            release.set()
            assert first.result(60).status_code == 202
        assert post(api, headers, [native()]).status_code == 202


def test_a_stop_lets_what_is_being_answered_end(
    tmp_path: Path, own_kafka: EmbeddedKafka, headers: dict[str, str], org: str
) -> None:
    api = serving(tmp_path, own_kafka).start().wait_for_keys()
    own_kafka.kill(sig=signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        try:
            pending = pool.submit(post, api, headers, [native("last")])
            with pytest.raises(TimeoutError):
                pending.result(1)
            assert api.process is not None
            api.process.terminate()
            wait_until(lambda: "Shutting down" in api.log, "the stop has begun")
        finally:
            own_kafka.kill(sig=signal.SIGCONT)
        assert pending.result(60).status_code == 202
    assert api.process.wait(30) == 0
    assert [event.event_id for _, event in on_topic(own_kafka.bootstrap_servers, org)] == ["last"]


def test_a_node_without_a_broker_is_not_ready_and_stops_cleanly(tmp_path: Path) -> None:
    with ApiProcess(tmp_path, bootstrap_servers="127.0.0.1:9") as api:
        answer = httpx.post(f"{api.url}/v1/events", headers={"Authorization": "Bearer mk_x"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "NOT_READY")
        assert answer.headers["retry-after"]
        assert api.stop() == 0

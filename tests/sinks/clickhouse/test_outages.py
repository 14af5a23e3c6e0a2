"""ClickHouse or Kafka away, killed, or hanging: the sink waits, loses nothing, and can be stopped at any time."""

from __future__ import annotations

import random
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.embedded.clickhouse import Endpoint, endpoint, is_ready
from runtime.embedded.kafka import EmbeddedKafka
from runtime.launch import Process, spawn
from tests.sinks.clickhouse.usage import Usage
from tests.sinks.clickhouse.world import World, assert_equal
from tests.waiting import wait_until

pytestmark = [pytest.mark.broker, pytest.mark.faults]

STOP_S_MAX = 5.0


class Engine:
    """A ClickHouse of the test's own, to be killed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.at: Endpoint = endpoint(folder)
        self.process: Process | None = None

    def start(self) -> None:
        argv = [sys.executable, "-m", "runtime.embedded.clickhouse", "--data-dir", str(self.folder)]
        self.process = spawn([*argv, "--port", str(self.at.port)], log_file=self.folder / "server.log")
        wait_until(lambda: is_ready(self.at), "ClickHouse answers")

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None, "it was started"
        self.process.send_signal(number)
        if number == signal.SIGKILL:
            self.process.wait(10)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    made = Engine(tmp_path / "clickhouse")
    yield made
    made.stop()


@pytest.fixture
def world(kafka: EmbeddedKafka, engine: Engine, tmp_path: Path) -> Iterator[World]:
    made = World(kafka.bootstrap_servers, engine.at, tmp_path)
    made.make_topics()
    yield made
    made.stop()


def test_clickhouse_killed_under_load_has_everything_once_it_is_back(world: World, engine: Engine) -> None:
    usage = Usage(random.Random(31))
    sink = world.start_sink(settings={"rewind_ms": 0})  # before there is a ClickHouse
    wait_until(lambda: "clickhouse_unavailable" in world.sink_log(), "the sink says that ClickHouse is away")
    for _ in range(3):
        engine.start()
        usage.add(150)
        world.produce(usage.log.take())
        wait_until(world.positions, "the sink writes")
        usage.add(150)
        world.produce(usage.log.take())
        engine.signal(signal.SIGKILL)
        usage.add(50)
        world.produce(usage.log.take())
    engine.start()
    world.wait_caught_up(sink)
    assert_equal(world.books(), usage.model.books)
    assert "sink.clickhouse.recovered" in world.sink_log()


def test_it_stops_in_time_while_clickhouse_is_away(world: World) -> None:
    sink = world.start_sink()
    wait_until(lambda: "clickhouse_unavailable" in world.sink_log(), "the sink says that ClickHouse is away")
    sink.terminate()
    assert sink.wait(STOP_S_MAX) == 0
    assert "sink.clickhouse.stopped" in world.sink_log()


def test_it_stops_in_time_while_clickhouse_hangs(world: World, engine: Engine) -> None:
    usage = Usage(random.Random(32))
    engine.start()
    sink = world.start_sink()
    usage.add(100)
    world.produce(usage.log.take())
    world.wait_caught_up(sink)
    engine.signal(signal.SIGSTOP)
    try:
        usage.add(100)
        world.produce(usage.log.take())
        sink.terminate()
        assert sink.wait(STOP_S_MAX) == 0
    finally:
        engine.signal(signal.SIGCONT)
    world.wait_caught_up(world.start_sink())
    assert_equal(world.books(), usage.model.books)


def test_kafka_stopped_and_started_again_is_read_on(engine: Engine, tmp_path: Path) -> None:
    usage = Usage(random.Random(33))
    engine.start()
    with EmbeddedKafka(tmp_path / "kafka") as kafka:
        world = World(kafka.bootstrap_servers, engine.at, tmp_path)
        try:
            world.make_topics()
            sink = world.start_sink()
            usage.add(100)
            world.produce(usage.log.take())
            world.wait_caught_up(sink)
            kafka.kill()
            wait_until(lambda: "kafka_unavailable" in world.sink_log(), "the sink says that Kafka is away")
            late = world.start_sink()
            wait_until(lambda: '"doing": "read topics"' in world.sink_log(), "so does one that starts now")
            late.terminate()
            assert late.wait(STOP_S_MAX) == 0
            kafka.restart()
            usage.add(100)
            world.produce(usage.log.take())
            world.wait_caught_up(sink)
            assert_equal(world.books(), usage.model.books)
        finally:
            world.stop()

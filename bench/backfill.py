"""How long live events wait while history comes in: `python -m bench.backfill`.

From produce to the committed fact, for live events at a steady rate: alone; beside a backfill by its own lane; and, to compare,
beside the same history sent straight to `usage-events`. Each on a broker of its own, with the real worker and forwarder. At the
end every event must be counted once: exit 1 where one is not.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from confluent_kafka import Consumer, Producer, TopicPartition
from rich.console import Console
from rich.table import Table

from bench.load import Message, Spread, make_load, produce
from bench.report import machine
from bench.shapes import SHAPES
from billing.records import UsageEvent
from runtime.embedded.kafka import EmbeddedKafka
from runtime.launch import Process, spawn
from runtime.topics import create_topics
from schemas.codec import decode
from schemas.topics import LEDGER, USAGE_BACKFILL, USAGE_EVENTS

__all__ = ["main"]

ROOT = Path(__file__).resolve().parents[1]
PARTITIONS = 4
SCENES = {"alone": None, "backfill lane": USAGE_BACKFILL, "straight": USAGE_EVENTS}
_SPREAD = Spread(customers=2_000, models=2, repeats=0.0)
_DAY_MS = 86_400_000
_CHUNK = 500
_COUNTED = 1
_LIVE_BEFORE_S = 3.0
_DEADLINE_S = 240.0
_WARM_EVENTS = 2_000


class Seen(NamedTuple):
    """One scene's figures. Milliseconds; events a second."""

    live_count: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    history_per_s: float | None
    is_exact: bool


class Ledger:
    """Follows the ledger in a thread: when the fact of each event id was committed, and how often it was counted."""

    def __init__(self, bootstrap_servers: str) -> None:
        self.seen_at: dict[str, float] = {}
        self.counted = 0
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap_servers,
                "group.id": "bench-backfill",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "fetch.wait.max.ms": 5,
                "log_level": 0,
            }
        )
        self._consumer.assign([TopicPartition(LEDGER, number, 0) for number in range(PARTITIONS)])
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="ledger", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._consumer.close()

    def _follow(self) -> None:
        decode = msgspec.msgpack.decode
        while not self._stop.is_set():
            # One is waited for: `consume` of many would wait out its time, and be what is measured.
            first = self._consumer.poll(0.1)
            for message in [] if first is None else [first, *self._consumer.consume(1_000, 0)]:
                fact = decode(message.value())[-1]
                if message.error() is None and isinstance(fact, list) and fact[0] == _COUNTED:
                    self.counted += 1
                    self.seen_at.setdefault(fact[2], time.perf_counter())


class Live:
    """Events at a steady rate, each sent at its moment whether or not the last one was acknowledged."""

    def __init__(self, bootstrap_servers: str, rate: float, seed: int) -> None:
        self.sent_at: dict[str, float] = {}
        self._rate = rate
        self._rng = random.Random(seed)
        self._stop = threading.Event()
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap_servers,
                "partitioner": "murmur2_random",
                "enable.idempotence": True,
                "linger.ms": 0,
                "log_level": 0,
            }
        )
        self._thread = threading.Thread(target=self._send, name="live", daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._stop.set()
        self._thread.join()
        self._producer.flush(60)

    def _send(self) -> None:
        due_s = time.perf_counter()
        while not self._stop.is_set():
            ((key, value),) = make_load(self._rng, SHAPES["builtin"], 1, _SPREAD, time.time_ns() // 1_000_000).messages
            self.sent_at[_id_of(value)] = time.perf_counter()
            self._producer.produce(USAGE_EVENTS, value, key)
            self._producer.poll(0)
            due_s += 1 / self._rate
            self._stop.wait(max(0.0, due_s - time.perf_counter()))


def _id_of(value: bytes) -> str:
    event = decode(value)
    assert isinstance(event, UsageEvent), "the load is made of usage events"
    return event.event_id


def history_of(count: int, seed: int) -> list[Message]:
    """Events of the past 30 days, the oldest first."""
    rng, now_ms = random.Random(seed), time.time_ns() // 1_000_000
    messages: list[Message] = []
    while len(messages) < count:
        left = 1 - len(messages) / count
        at_ms = now_ms - round(30 * left * _DAY_MS)
        messages += make_load(rng, SHAPES["builtin"], min(_CHUNK, count - len(messages)), _SPREAD, at_ms).messages
    return messages


def run_scene(topic: str | None, args: argparse.Namespace) -> Seen:
    history = history_of(args.events, args.seed) if topic else []
    with (
        tempfile.TemporaryDirectory(prefix="meterlog-bench-") as folder,
        EmbeddedKafka(Path(folder) / "kafka") as kafka,
        processes(kafka.bootstrap_servers, Path(folder), args),
    ):
        servers = kafka.bootstrap_servers
        ledger = Ledger(servers)
        try:
            warm = make_load(random.Random(args.seed + 1), SHAPES["builtin"], _WARM_EVENTS, _SPREAD, _now_ms()).messages
            produce(servers, USAGE_EVENTS, warm)
            _wait(lambda: ledger.counted >= len(warm), "the warm-up is counted")
            live = Live(servers, args.live_rate, args.seed + 2)
            time.sleep(_LIVE_BEFORE_S)
            began = time.perf_counter()
            if topic:
                produce(servers, topic, history)
                ids = [_id_of(value) for _, value in history]
                _wait(lambda: all(each in ledger.seen_at for each in ids), "the history is counted")
                ended = max(ledger.seen_at[each] for each in ids)
            else:
                time.sleep(args.alone_s)
                ended = time.perf_counter()
            live.end()
            _wait(lambda: all(each in ledger.seen_at for each in live.sent_at), "live events are counted")
        finally:
            ledger.close()
        within = {each: at for each, at in live.sent_at.items() if began <= at <= ended}
        waits = sorted((ledger.seen_at[each] - at) * 1_000 for each, at in within.items())
        is_exact = ledger.counted == len(ledger.seen_at) == len(warm) + len(history) + len(live.sent_at)
        rate = len(history) / (ended - began) if topic else None
        return Seen(len(waits), _at(waits, 0.5), _at(waits, 0.99), waits[-1], rate, is_exact)


def _at(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _wait(condition: Any, what: str) -> None:
    deadline_s = time.monotonic() + _DEADLINE_S
    while not condition():
        if time.monotonic() > deadline_s:
            message = f"not within {_DEADLINE_S:g} s: {what}"
            raise RuntimeError(message)
        time.sleep(0.1)


@contextmanager
def processes(bootstrap_servers: str, folder: Path, args: argparse.Namespace) -> Iterator[None]:
    """The worker and the forwarder, for as long as the body runs."""
    create_topics(bootstrap_servers, PARTITIONS, 1, bytes(32))
    variables = {
        "METERLOG_BOOTSTRAP_SERVERS": bootstrap_servers,
        "METERLOG_DATA_DIR": str(folder / "meterlog"),
        "METERLOG_PARTITIONS": str(PARTITIONS),
        "METERLOG_REPLICATION": "1",
        "METERLOG_WORKER_INSTANCE_ID": "bench",
        "METERLOG_FORWARDER_WINDOW": str(args.window),
    }
    environment = {**os.environ, **variables}
    running: list[Process] = []
    try:
        for name in ("worker", "forwarder"):
            argv = [sys.executable, "-m", "runtime", name]
            running.append(spawn(argv, log_file=folder / f"{name}.log", env=environment, cwd=ROOT))
        yield
    except BaseException:
        for name in ("worker", "forwarder"):
            print((folder / f"{name}.log").read_text(errors="replace")[-2_000:], file=sys.stderr)
        raise
    finally:
        for process in reversed(running):
            process.terminate()
            process.wait(30)


def main() -> int:
    args = _arguments()
    about = machine()
    seen = {}
    for name in args.scenes:
        seen[name] = run_scene(SCENES[name], args)
        print(f"{name}: {seen[name]}", file=sys.stderr)
    console = Console(width=150, highlight=False)
    console.print(", ".join(f"{name} {value}" for name, value in about.items()))
    table = Table(
        "", title=f"live events, {args.live_rate:g}/s: ms from produce to fact; history of {args.events:,} events"
    )
    for name in ("live events", "p50", "p99", "max", "history events/s", "each counted once"):
        table.add_column(name, justify="right")
    for name, row in seen.items():
        rate = "" if row.history_per_s is None else f"{row.history_per_s:,.0f}"
        waits = (f"{wait:,.0f}" for wait in (row.p50_ms, row.p99_ms, row.max_ms))
        table.add_row(name, f"{row.live_count:,}", *waits, rate, "yes" if row.is_exact else "NO")
    console.print(table)
    if args.json is not None:
        rows = {name: row._asdict() for name, row in seen.items()}
        args.json.write_text(json.dumps({"machine": about, "scenes": rows}, indent=2))
    return 0 if all(row.is_exact for row in seen.values()) else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.backfill", description=__doc__)
    parser.add_argument("--events", type=int, default=100_000, help="of the history")
    parser.add_argument("--live-rate", type=float, default=100.0, help="live events a second")
    parser.add_argument("--window", type=int, default=1_000, help="of the forwarder")
    parser.add_argument("--alone-s", type=float, default=10.0, help="how long live events are measured alone")
    parser.add_argument("--scenes", nargs="+", choices=list(SCENES), default=list(SCENES))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

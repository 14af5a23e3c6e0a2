"""`meterlog up` as a person runs it: it says when it serves, ends when it is told to, and goes on where it stopped."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest

from tests.faults.command import METERLOG, ROOT, create_key, run_json
from tests.faults.load import ORGS, HttpDoor
from tests.faults.naive import Model, Used
from tests.waiting import wait_until

pytestmark = [pytest.mark.broker, pytest.mark.faults]

_START_S = 120.0
_STOP_S = 60.0
_EVENTS = 200


class Up(NamedTuple):
    """A running `meterlog up`."""

    process: subprocess.Popen[str]
    api_url: str


def start(data_dir: Path) -> subprocess.Popen[str]:
    with log_of(data_dir).open("a") as log:
        argv = [*METERLOG, "up", "--data-dir", str(data_dir), "--port", "0"]
        return subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True)


def log_of(data_dir: Path) -> Path:
    return data_dir.with_suffix(".log")


@contextmanager
def up(data_dir: Path) -> Iterator[Up]:
    """Starts, and waits for its two lines. The body must end it; should it fail, nothing stays behind either."""
    process = start(data_dir)
    try:
        assert process.stdout is not None
        said = dict(line.split() for line in (process.stdout.readline(), process.stdout.readline()))
        assert said["clickhouse"].startswith("http://127.0.0.1:"), log_of(data_dir).read_text()
        yield Up(process, said["ready"])
    finally:
        end(process, signal.SIGKILL)


def end(process: subprocess.Popen[str], by: signal.Signals) -> int:
    """Its exit status. Nothing that came of it may be left then; a killed parent's children are given a moment."""
    if process.poll() is not None:
        return process.returncode
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(by)
    status = process.wait(_STOP_S)
    assert process.stdout is not None
    process.stdout.close()
    patience_s = 10.0 if by is signal.SIGKILL else 0.0
    wait_until(lambda: not any(is_alive(child) for child in family), "no child is left", patience_s)
    return status


def is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def send(running: Up, keys: dict[str, str], model: Model, seed: str) -> None:
    door = HttpDoor(running.api_url, keys, seed, time.time_ns() // 1_000, rate=1_000)
    door.wait_open()
    door.send_some(_EVENTS)
    model += door.model


def usage_in(data_dir: Path) -> dict[Used, Decimal]:
    """`meterlog usage` of each org."""
    rows = {org: run_json("usage", "--org", org, "--json", data_dir=data_dir) for org in ORGS}
    return {
        Used(f"{org}/{row['customer']}", row["meter"]): Decimal(row["quantity"]) for org in ORGS for row in rows[org]
    }


def assert_totals(data_dir: Path, model: Model) -> dict[str, Any]:
    """What was sent is what the audit and the usage say; gives the audit."""
    audit: dict[str, Any] = run_json("audit", "--json", data_dir=data_dir)
    assert audit["holds"]
    assert audit["counted"] == len(model.counted)
    assert usage_in(data_dir) == {used: total.quantity for used, total in model.usage.items()}
    return audit


def test_it_ends_clean_and_goes_on_with_the_same_totals(tmp_path: Path) -> None:
    data_dir, model = tmp_path / "data", Model()
    with up(data_dir) as first:
        keys = {org: create_key(data_dir, org) for org in ORGS}
        send(first, keys, model, "first")
        audit = assert_totals(data_dir, model)
        assert end(first.process, signal.SIGINT) == 0
    with up(data_dir) as second:
        assert second.api_url == first.api_url, "a stack that starts again is where it was"
        assert assert_totals(data_dir, model) == audit
        send(second, keys, model, "second")
        assert end(second.process, signal.SIGKILL) == -signal.SIGKILL
    with up(data_dir) as third:
        assert_totals(data_dir, model)
        assert end(third.process, signal.SIGINT) == 0


@pytest.mark.parametrize("after", ["started kafka", "started worker"])
def test_ctrl_c_before_it_is_ready_ends_it_as_well(tmp_path: Path, after: str) -> None:
    data_dir = tmp_path / "data"
    process = start(data_dir)
    try:
        wait_until(lambda: after in log_of(data_dir).read_text(), after, _START_S)
        assert end(process, signal.SIGINT) == 0, log_of(data_dir).read_text()
    finally:
        end(process, signal.SIGKILL)

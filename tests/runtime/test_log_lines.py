"""A process's log is a JSON object a line, whoever speaks, and no secret is in it."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from observe.log import LogLine, ProcessEvent
from observe.streams import StreamsEvent
from runtime.log_lines import JsonLines, TextLines, secrets_of
from runtime.settings import Settings

ROOT = Path(__file__).parents[2]
SECRET = 'pass"word-7'


def record(message: object, *args: object, level: int = logging.INFO) -> logging.LogRecord:
    return logging.LogRecord("some.library", level, __file__, 1, message, args, None)


def json_line(message: object, *args: object, secrets: tuple[str, ...] = ()) -> dict[str, Any]:
    line: dict[str, Any] = json.loads(JsonLines("worker", secrets).format(record(message, *args)))
    return line


def test_a_line_has_time_level_role_event_and_fields() -> None:
    line = json_line(LogLine(StreamsEvent.OWNED, {"offsets": {3: 17}, "none": None}))
    moment = datetime.fromisoformat(line.pop("time"))
    assert moment.utcoffset() is not None
    assert isinstance(line.pop("pid"), int)
    assert line == {"level": "info", "role": "worker", "event": "partitions.owned", "fields": {"offsets": {"3": 17}}}


def test_a_library_s_line_passes_through_the_same_formatter() -> None:
    line = json_line("lost %d connections\nto %s", 3, "broker")
    assert line["event"] == ProcessEvent.LIBRARY
    assert line["fields"] == {"logger": "some.library", "message": "lost 3 connections\nto broker"}


def test_another_formatter_shows_name_and_fields() -> None:
    assert logging.Formatter().format(record(LogLine("some.event", {"count": 2}))) == 'some.event {"count": 2}'


@pytest.mark.parametrize("formatter", [JsonLines, TextLines])
@pytest.mark.parametrize(
    "message",
    [
        pytest.param(LogLine("some.event", {"error": f"refused: {SECRET}"}), id="in a field"),
        pytest.param(f"GET http://meterlog:{SECRET}@clickhouse/", id="in a library's line"),
        pytest.param("Authorization: Bearer mk_0123456789abcdef", id="an API key"),
        pytest.param("key sk_live_0123456789abcdef", id="another deployment's Stripe key"),
    ],
)
def test_no_secret_is_in_a_line(formatter: type[JsonLines | TextLines], message: object) -> None:
    settings = Settings(bootstrap_servers="here:9092", clickhouse_password=SecretStr(SECRET))
    line = formatter("worker", secrets_of(settings)).format(record(message))
    assert "***" in line
    assert not re.search("word-7|0123456789abcdef", line)


def test_a_secret_is_found_when_nothing_strikes_it_out() -> None:
    assert "word-7" in JsonLines("worker").format(record(f"password {SECRET}"))


def said_by(script: str, **environment: str) -> list[str]:
    """The lines of a process that sets its log up and runs `script`."""
    begin = "import logging, threading, warnings\nfrom runtime.log_lines import set_up_logging\n"
    begin += "from runtime.settings import LogSettings\nset_up_logging('worker', LogSettings())\n"
    done = subprocess.run(
        [sys.executable, "-c", begin + script],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stderr.splitlines()


def test_whatever_a_process_says_is_an_object_a_line() -> None:
    script = """
logging.getLogger("aiokafka").info("too much")
logging.getLogger("some.library").warning("two\\nlines")
warnings.warn("old", stacklevel=1)
thread = threading.Thread(target=lambda: 1 / 0, name="reader")
thread.start()
thread.join()
raise ValueError("planted")
"""
    lines = [json.loads(line) for line in said_by(script)]
    assert [line["event"] for line in lines] == [*[ProcessEvent.LIBRARY] * 2, *[ProcessEvent.CRASHED] * 2]
    assert [line["fields"].get("thread") for line in lines[2:]] == ["reader", "main"]
    assert "ValueError: planted" in lines[3]["error"]


def test_text_and_level_are_settings() -> None:
    script = "logging.getLogger('x').info('hushed'); logging.getLogger('x').error('heard')"
    [line] = said_by(script, METERLOG_LOG_FORMAT="text", METERLOG_LOG_LEVEL="error")
    assert re.fullmatch(r"\S+Z error    worker process.library logger=x message=heard", line)

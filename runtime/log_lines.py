"""How every process writes its log: a JSON object a line, or, for a person at a terminal, a line of text.

    {"time": "2026-11-21T09:30:00.123Z", "level": "info", "role": "worker", "pid": 17, "event": "partitions.owned",
     "fields": {…}}

`event` is a name that `observe` declares; a library's own line is `process.library`. `error` is beside them where there
is a traceback. A secret that the settings hold never gets into a line, nor does what looks like an API key of anybody's.
"""

import json
import logging
import os
import re
import sys
import threading
from collections.abc import Collection
from datetime import UTC, datetime
from types import TracebackType
from typing import Final

from pydantic import SecretStr

from observe.log import LogLine, ProcessEvent
from runtime.settings import LogFormat, LogSettings

__all__ = ["JsonLines", "TextLines", "is_set_up", "refuse", "secrets_of", "set_up_logging"]

_log = logging.getLogger("meterlog")
_CHATTY: Final = ("aiokafka", "clickhouse_connect", "faust", "mode", "stripe", "urllib3", "uvicorn")
"""Libraries that tell of each request or rebalance; what goes wrong in them is told by the room that uses them."""
_SECRET_CHARS_MIN: Final = 6
"""Anything shorter is a placeholder, and would be struck out of every word that holds it."""
_STRUCK_OUT: Final = "***"
_LOOKS_SECRET: Final = re.compile(r"\b(?:[sr]k_(?:live|test)_|whsec_|mk_)[\w-]{6,}|(?<=Bearer )[\w.~+/=-]+")
"""Keys of Stripe's and of ours, which a library may put into a message."""


def set_up_logging(role: str, settings: LogSettings, *, level: str | None = None) -> None:
    """Write this process's log to stderr: whoever runs the process decides where that goes.

    `role` is the process's part in the deployment, as in its command; `level` is for one that says less than it is told.
    Replaces what was set up before.
    """
    wants_text = settings.log_format is LogFormat.TEXT or (
        settings.log_format is LogFormat.AUTO and sys.stderr.isatty()
    )
    secrets = secrets_of(settings)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(TextLines(role, secrets) if wants_text else JsonLines(role, secrets))
    logging.basicConfig(level=(level or settings.log_level).upper(), handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)
    sys.excepthook = _say_crash
    threading.excepthook = _say_thread_crash


def refuse(message: str) -> None:
    """Say why the process ends before it has begun; for a process whose log is set up."""
    _log.error(LogLine(ProcessEvent.REFUSED, {"reason": message}))


def is_set_up() -> bool:
    """Whether this process's log is: a command for a person has none."""
    return any(isinstance(handler.formatter, JsonLines | TextLines) for handler in logging.getLogger().handlers)


def secrets_of(settings: LogSettings) -> tuple[str, ...]:
    """The values that no line may hold, as they are and as JSON spells them."""
    plain = [value.get_secret_value() for _, value in settings if isinstance(value, SecretStr)]
    spellings = {spelling for value in plain for spelling in (value, json.dumps(value)[1:-1])}
    return tuple(sorted(spelling for spelling in spellings if len(spelling) >= _SECRET_CHARS_MIN))


class JsonLines(logging.Formatter):
    """One JSON object a line."""

    def __init__(self, role: str, secrets: Collection[str] = ()) -> None:
        super().__init__()
        self._role = role
        self._pid = os.getpid()
        self._secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        event, fields = _event_of(record)
        line = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "role": self._role,
            "pid": self._pid,
            "event": event,
            "fields": fields,
        }
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = self.formatException(record.exc_info)
        return _without_secrets(json.dumps(line, default=str, ensure_ascii=False), self._secrets)


class TextLines(logging.Formatter):
    """For a person: time, level, event, and the fields."""

    def __init__(self, role: str, secrets: Collection[str] = ()) -> None:
        super().__init__()
        self._role = role
        self._secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        event, fields = _event_of(record)
        told = " ".join(f"{name}={value}" for name, value in fields.items())
        line = f"{_time(record)} {record.levelname.lower():<8} {self._role} {event} {told}"
        if record.exc_info and record.exc_info[0] is not None:
            line += "\n" + self.formatException(record.exc_info)
        return _without_secrets(line, self._secrets)


def _event_of(record: logging.LogRecord) -> tuple[str, dict[str, object]]:
    """The line's name and fields; a field without a value is left out."""
    if isinstance(record.msg, LogLine):
        return record.msg.event, {name: value for name, value in record.msg.fields.items() if value is not None}
    return ProcessEvent.LIBRARY.value, {"logger": record.name, "message": record.getMessage()}


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _without_secrets(line: str, secrets: Collection[str]) -> str:
    for secret in secrets:
        line = line.replace(secret, _STRUCK_OUT)
    return _LOOKS_SECRET.sub(_STRUCK_OUT, line)


def _say_crash(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    _log.critical(LogLine(ProcessEvent.CRASHED, {"thread": "main"}), exc_info=(kind, error, trace))


def _say_thread_crash(args: threading.ExceptHookArgs) -> None:
    name = args.thread.name if args.thread is not None else "unknown"
    exc_info = None if args.exc_value is None else (args.exc_type, args.exc_value, args.exc_traceback)
    _log.critical(LogLine(ProcessEvent.CRASHED, {"thread": name}), exc_info=exc_info)

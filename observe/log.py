"""What a log line is made of in every process, and the names of the lines that no room says."""

import json
from collections.abc import Mapping
from enum import StrEnum

__all__ = ["LogLine", "ProcessEvent"]


class ProcessEvent(StrEnum):
    """Said by whoever writes a process's log, of what others wanted to say."""

    LIBRARY = "process.library"
    """A library's own line: `logger`, `message`."""
    WATCHED = "process.watched"
    """Metrics and health are served: `url`."""
    CHECK_CHANGED = "process.check_changed"
    """A check of /health came to another state: `check`, `state`, `message`, `do`."""
    REFUSED = "process.refused"
    """It ends before it has begun, exit 2: `reason`, with what to do."""
    CRASHED = "process.crashed"
    """An exception that nobody caught; `error` has it. The process, or one of its threads, ends: `thread`."""


class LogLine:
    """A log event as a logging message: `logger.info(LogLine(name, fields))`.

    The process's formatter writes name and fields as they are; whoever formats it in another way gets the name and the
    fields as JSON.
    """

    __slots__ = ("event", "fields")

    def __init__(self, event: str, fields: Mapping[str, object]) -> None:
        self.event = str(event)
        self.fields = fields

    def __str__(self) -> str:
        return f"{self.event} {json.dumps(self.fields, default=str)}"

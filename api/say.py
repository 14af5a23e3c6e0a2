"""Writes log events: the name, then its fields as JSON."""

import logging

import msgspec

from observe.api import ApiEvent

__all__ = ["say"]

_logger = logging.getLogger("meterlog.api")


def say(event: ApiEvent, *, level: int = logging.INFO, trace: bool = False, **fields: object) -> None:
    """One line. `trace` adds where the exception that is being handled came from."""
    _logger.log(level, "%s %s", event.value, msgspec.json.encode(fields).decode(), exc_info=trace)

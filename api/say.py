"""Writes log events: the name, then its fields as JSON."""

import logging

import msgspec

from observe.api import ApiEvent

__all__ = ["say"]

_logger = logging.getLogger("meterlog.api")


def say(event: ApiEvent, *, level: int = logging.INFO, **fields: object) -> None:
    """One line."""
    _logger.log(level, "%s %s", event.value, msgspec.json.encode(fields).decode())

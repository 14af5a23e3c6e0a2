"""Says log events."""

import logging

from observe.api import ApiEvent
from observe.log import LogLine

__all__ = ["say"]

_logger = logging.getLogger("meterlog.api")


def say(event: ApiEvent, *, level: int = logging.INFO, **fields: object) -> None:
    """Log one event."""
    _logger.log(level, LogLine(event, fields))

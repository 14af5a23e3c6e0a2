"""What the forwarder says."""

import logging

from observe.forwarder import ForwarderEvent
from observe.log import LogLine

__all__ = ["say"]

_log = logging.getLogger("meterlog.forwarder")


def say(event: ForwarderEvent, level: int = logging.INFO, **fields: object) -> None:
    """Log one event."""
    _log.log(level, LogLine(event, fields))

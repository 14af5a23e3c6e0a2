"""What the sink says."""

import logging

from observe.clickhouse_sink import ClickHouseSinkEvent
from observe.log import LogLine

__all__ = ["say"]

_log = logging.getLogger("meterlog.sink.clickhouse")


def say(event: ClickHouseSinkEvent, level: int = logging.INFO, **fields: object) -> None:
    """Log one event."""
    _log.log(level, LogLine(event, fields))

"""What the sink says: an event's name and its fields as JSON, so that a reader can count events by name."""

import json
import logging

from observe.clickhouse_sink import ClickHouseSinkEvent

__all__ = ["say"]

_log = logging.getLogger("meterlog.sink.clickhouse")


def say(event: ClickHouseSinkEvent, level: int = logging.INFO, **fields: object) -> None:
    """Log one event."""
    if _log.isEnabledFor(level):
        _log.log(level, "%s %s", event, json.dumps(fields, default=str))

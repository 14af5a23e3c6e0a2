"""The API's log events: each name, what it means, and the fields that come with it."""

from enum import StrEnum

__all__ = ["ApiEvent"]


class ApiEvent(StrEnum):
    """Names are for machines; a line is the name and its fields as JSON. No field ever holds a key or a body."""

    STARTED = "api.started"
    """Listening: `host`, `port`."""
    STOPPED = "api.stopped"
    """Ended by a signal; every request that was being answered got its answer."""
    KEYS_LOADED = "api.keys_loaded"
    """The topic `control` was read to its end: `key_count`. Until then every request with a key gets 503."""
    KEY_UNREADABLE = "api.key_unreadable"
    """A record on `control` is no API key, and the key it stood for is not valid any more: `record_key`, `offset`."""
    KAFKA_COMPLAINED = "api.kafka_complained"
    """The client library reported an error that it goes on after: `reason`."""
    NOT_ACKNOWLEDGED = "api.not_acknowledged"
    """A batch was answered with 503, to be sent again: `reason`, `event_count`."""
    BUSY = "api.busy"
    """A request was turned away with 503 because too much is in flight: `limit`, `what`."""
    CLICKHOUSE_FAILED = "api.clickhouse_failed"
    """A query could not be answered: `reason`."""
    HEALTH_CHANGED = "api.health_changed"
    """`status` is now this, for `reasons`."""
    REQUEST_FAILED = "api.request_failed"
    """A request ended in a way that nobody foresaw, answered with 500: `path`, `error`, `correlation_id`."""
    GAVE_UP = "api.gave_up"
    """The process ends, to be started anew: `reason`."""

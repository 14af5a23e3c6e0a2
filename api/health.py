"""Whether the pipeline counts what it accepts. A pipeline that has stopped counting must not look healthy."""

from collections.abc import Iterator
from typing import Final, NamedTuple

import msgspec

from api.lag import Lag, Unread
from observe.health import Check, CheckName, CheckState, worst_of
from observe.waiting import Waiting
from schemas.timestamps import timestamp

__all__ = ["Behind", "Bounds", "Health", "Judged", "Measured", "Progress", "ShownCheck", "behind", "judge", "to_health"]


class Bounds(msgspec.Struct, frozen=True):
    """Beyond which a check is not green."""

    fold_age_s_max: float
    fold_lag_max: int
    sink_age_s_max: float
    stale_ms_max: int
    """Age of a measurement: the thread that measures may hang with what it measures."""
    keys_age_s_max: float = 30.0
    clock_ahead_ms_max: int = 120_000
    """An append time that is further ahead of this node's clock is told: the fold waits there for the clock."""


class Behind(NamedTuple):
    """How far one reader is behind."""

    record_count: int
    age_s: float
    """Of the record that has waited longest; 0 when none waits."""
    oldest: Unread | None
    """That record."""


class Measured(NamedTuple):
    """What was found at `measured_at_ms`. None: it could not be found out, for the reason in the `…_error` beside it."""

    measured_at_ms: int
    keys_loaded: bool
    keys_age_s: float
    """How long ago the node last knew all of `control`."""
    fold: Behind | None
    stands: tuple[str, ...]
    """Why partitions stand, as their workers say it, each with the command that goes on."""
    kafka_error: str | None
    sink: Behind | None
    """The ClickHouse sink's."""
    clickhouse_error: str | None
    refused: str | None = None
    """Why Kafka did not acknowledge the last batch, where that was lately."""


class Judged(NamedTuple):
    """How a check stands; the board knows since when."""

    name: CheckName
    state: CheckState
    message: str = ""
    do: str = ""


class Progress(msgspec.Struct, frozen=True):
    """How far one part is behind."""

    lag_records: int | None
    oldest_age_s: float | None
    """How long the record that waits longest has waited; 0 when there is none, null when it is not known."""


class ShownCheck(msgspec.Struct, frozen=True, omit_defaults=True):
    """One check, as the answer shows it."""

    name: str
    state: str
    since: str
    message: str = ""
    do: str = ""


class Health(msgspec.Struct, frozen=True):
    """The answer of GET /v1/health."""

    status: str
    reasons: tuple[str, ...]
    """Why it is not green; empty when it is."""
    checked_at: str | None
    kafka_reachable: bool
    clickhouse_reachable: bool
    api_keys_loaded: bool
    fold: Progress
    clickhouse_sink: Progress
    checks: tuple[ShownCheck, ...]


_UNKNOWN: Final = Progress(None, None)
_LOOK_AT_WORKERS: Final = "see that workers run (meterlog worker), and what their log and /health say"
_LOOK_AT_SINK: Final = "see that the sink runs (meterlog sink clickhouse), and what its log and /health say"


def behind(lag: Lag, waiting: Waiting, now_s: float, now_ms: int) -> Behind:
    """How long what is unread has waited.

    By this node's own monotonic clock, from the moment at which it saw that the partition had reached the record: a
    broker's clock that is off, by a year even, changes nothing. Only of what was there before the node looked does the
    append time count, where it says that it has waited for longer.
    """
    for place, end in lag.ends.items():
        waiting.saw_end(place, end, now_s)
    worst, oldest = 0.0, None
    for unread in lag.unread:
        age = waiting.age(unread.place, unread.offset, now_s)
        by_append_s = 0.0 if age.is_whole or unread.append_ms is None else (now_ms - unread.append_ms) / 1_000
        age_s = max(age.seconds, by_append_s)
        if oldest is None or age_s > worst:
            worst, oldest = age_s, unread
    return Behind(lag.record_count, worst, oldest)


def judge(measured: Measured | None, bounds: Bounds, now_ms: int) -> tuple[Judged, ...]:
    """The checks at `now_ms` by what was last measured; None: nothing was yet."""
    if measured is None:
        return (Judged(CheckName.MEASURED, CheckState.RED, "nothing is measured yet", "ask again in a second"),)
    return (_recency(measured, bounds, now_ms), *_parts(measured, bounds))


def to_health(measured: Measured | None, checks: tuple[Check, ...]) -> Health:
    """The answer: the checks, each with since when, and the figures behind them."""
    return Health(
        status=worst_of(checks),
        reasons=tuple(check.message for check in checks if check.state is not CheckState.GREEN),
        checked_at=timestamp(measured.measured_at_ms) if measured else None,
        kafka_reachable=measured is not None and measured.kafka_error is None,
        clickhouse_reachable=measured is not None and measured.clickhouse_error is None,
        api_keys_loaded=measured is not None and measured.keys_loaded,
        fold=_progress(measured.fold if measured else None),
        clickhouse_sink=_progress(measured.sink if measured else None),
        checks=tuple(
            ShownCheck(check.name, check.state, timestamp(check.since_ms), check.message, check.do) for check in checks
        ),
    )


def _progress(found: Behind | None) -> Progress:
    return _UNKNOWN if found is None else Progress(found.record_count, round(found.age_s, 3))


def _recency(measured: Measured, bounds: Bounds, now_ms: int) -> Judged:
    age_ms = now_ms - measured.measured_at_ms
    if age_ms <= bounds.stale_ms_max:
        return Judged(CheckName.MEASURED, CheckState.GREEN)
    message = f"the last measurement is {age_ms // 1_000} s old: measuring hangs"
    return Judged(CheckName.MEASURED, CheckState.RED, message, "restart this node: meterlog api")


def _parts(measured: Measured, bounds: Bounds) -> Iterator[Judged]:
    yield _kafka(measured)
    yield _keys(measured, bounds)
    if measured.fold is not None:
        yield _standing(measured)
        yield _fold_progress(measured.fold, measured, bounds)
    yield _clickhouse(measured)
    if measured.sink is not None:
        yield _sink_progress(measured.sink, bounds)
    yield _event_log(measured)


def _kafka(measured: Measured) -> Judged:
    if measured.kafka_error is None:
        return Judged(CheckName.KAFKA, CheckState.GREEN)
    return Judged(CheckName.KAFKA, CheckState.RED, f"Kafka: {measured.kafka_error}", "see that the brokers run")


def _keys(measured: Measured, bounds: Bounds) -> Judged:
    name = CheckName.API_KEYS
    if not measured.keys_loaded:
        return Judged(
            name, CheckState.RED, "the API keys are not read yet", "wait; if it lasts, see that Kafka answers"
        )
    if measured.keys_age_s > bounds.keys_age_s_max:
        message = f"changes of API keys are not known since {measured.keys_age_s:.0f} s: a revoked one may be taken"
        return Judged(name, CheckState.YELLOW, message, "restart this node: meterlog api")
    return Judged(name, CheckState.GREEN)


def _standing(measured: Measured) -> Judged:
    if not measured.stands:
        return Judged(CheckName.FOLD_STANDS, CheckState.GREEN)
    do = "give the order that the message names; docs/operations.md tells which one when"
    return Judged(CheckName.FOLD_STANDS, CheckState.RED, "; ".join(measured.stands), do)


def _fold_progress(fold: Behind, measured: Measured, bounds: Bounds) -> Judged:
    name = CheckName.FOLD_PROGRESS
    if fold.oldest is not None and fold.age_s > bounds.fold_age_s_max:
        (_, partition), offset, append_ms = fold.oldest
        message = (
            f"the fold has not counted the record at offset {offset} of partition {partition} for {fold.age_s:.0f} s"
        )
        message += f"; {bounds.fold_age_s_max:g} s are allowed"
        ahead_ms = 0 if append_ms is None else append_ms - measured.measured_at_ms
        if append_ms is None:
            message += "; it lies behind a transaction that a producer has left open"
            return Judged(name, CheckState.RED, message, "see docs/operations.md: a transaction is left open")
        if ahead_ms > bounds.clock_ahead_ms_max:
            message += f"; its append time is {ahead_ms // 1_000} s ahead of this node's clock"
            return Judged(name, CheckState.RED, message, "see docs/operations.md: a broker's clock is ahead")
        return Judged(name, CheckState.RED, message, _LOOK_AT_WORKERS)
    if fold.record_count > bounds.fold_lag_max:
        message = f"the fold is {fold.record_count} records behind; {bounds.fold_lag_max} are allowed"
        return Judged(name, CheckState.RED, message, "start more workers: meterlog worker")
    return Judged(name, CheckState.GREEN)


def _clickhouse(measured: Measured) -> Judged:
    if measured.clickhouse_error is None:
        return Judged(CheckName.CLICKHOUSE, CheckState.GREEN)
    message = f"ClickHouse: {measured.clickhouse_error}"
    return Judged(CheckName.CLICKHOUSE, CheckState.YELLOW, message, "see that ClickHouse runs, and its sink")


def _sink_progress(sink: Behind, bounds: Bounds) -> Judged:
    name = CheckName.CLICKHOUSE_SINK
    if sink.oldest is None or sink.age_s <= bounds.sink_age_s_max:
        return Judged(name, CheckState.GREEN)
    (topic, partition), _, _ = sink.oldest
    message = f"the ClickHouse sink has not stored a record of {topic}/{partition} for {sink.age_s:.0f} s"
    return Judged(name, CheckState.YELLOW, f"{message}; {bounds.sink_age_s_max:g} s are allowed", _LOOK_AT_SINK)


def _event_log(measured: Measured) -> Judged:
    if measured.refused is None:
        return Judged(CheckName.EVENT_LOG, CheckState.GREEN)
    message = f"Kafka did not acknowledge the last batch of events: {measured.refused}"
    do = "see that enough replicas of usage-events are in sync; producers send again, and nothing is lost"
    return Judged(CheckName.EVENT_LOG, CheckState.RED, message, do)

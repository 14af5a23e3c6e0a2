"""Whether the pipeline counts what it accepts. A pipeline that has stopped counting must not look healthy."""

from typing import Final

import msgspec

from api.lag import Lag
from schemas.timestamps import timestamp

__all__ = ["Bounds", "Health", "Measured", "Progress", "judge_health"]

GREEN: Final = "green"
RED: Final = "red"


class Bounds(msgspec.Struct, frozen=True):
    """Beyond which health is red."""

    lag_records_max: int
    lag_age_ms_max: int
    stale_ms_max: int
    """Age of a measurement: the thread that measures may hang with what it measures."""


class Measured(msgspec.Struct, frozen=True):
    """What was found at `measured_at_ms`. None: it could not be found out, for the reason in the `…_error` beside it."""

    measured_at_ms: int
    keys_loaded: bool
    fold: Lag | None
    kafka_error: str | None
    sink: Lag | None
    """The ClickHouse sink's."""
    clickhouse_error: str | None


class Progress(msgspec.Struct, frozen=True):
    """How far one part is behind."""

    lag_records: int | None
    oldest_age_s: float | None
    """Age of the oldest record that it has not taken in; 0 when there is none, null when it is not known."""


class Health(msgspec.Struct, frozen=True):
    """The answer of GET /v1/health."""

    status: str
    reasons: tuple[str, ...]
    """Why it is red; empty when it is green."""
    checked_at: str | None
    kafka_reachable: bool
    clickhouse_reachable: bool
    api_keys_loaded: bool
    fold: Progress
    clickhouse_sink: Progress


_UNKNOWN: Final = Progress(None, None)


def judge_health(measured: Measured | None, bounds: Bounds, now_ms: int) -> Health:
    """Health at `now_ms` by what was last measured; None: nothing was yet."""
    if measured is None:
        return Health(RED, ("nothing is measured yet",), None, False, False, False, _UNKNOWN, _UNKNOWN)
    fold = _progress(measured.fold, measured.measured_at_ms)
    sink = _progress(measured.sink, measured.measured_at_ms)
    reasons = (
        *_stale(now_ms - measured.measured_at_ms, bounds),
        *_complaints(measured),
        *_behind("the fold", fold, bounds),
        *_behind("the ClickHouse sink", sink, bounds),
    )
    return Health(
        RED if reasons else GREEN,
        reasons,
        timestamp(measured.measured_at_ms),
        measured.kafka_error is None,
        measured.clickhouse_error is None,
        measured.keys_loaded,
        fold,
        sink,
    )


def _progress(lag: Lag | None, measured_at_ms: int) -> Progress:
    if lag is None:
        return _UNKNOWN
    # The broker's clock may be ahead of ours: an age is never negative.
    age_ms = 0 if lag.oldest_ms is None else max(0, measured_at_ms - lag.oldest_ms)
    return Progress(lag.record_count, age_ms / 1_000)


def _stale(age_ms: int, bounds: Bounds) -> tuple[str, ...]:
    if age_ms <= bounds.stale_ms_max:
        return ()
    return (f"the last measurement is {age_ms // 1_000} s old: measuring hangs",)


def _complaints(measured: Measured) -> tuple[str, ...]:
    found = []
    if measured.kafka_error is not None:
        found.append(f"Kafka: {measured.kafka_error}")
    if measured.clickhouse_error is not None:
        found.append(f"ClickHouse: {measured.clickhouse_error}")
    if not measured.keys_loaded:
        found.append("the API keys are not read yet")
    return tuple(found)


def _behind(who: str, progress: Progress, bounds: Bounds) -> tuple[str, ...]:
    found = []
    if progress.oldest_age_s is not None and progress.oldest_age_s * 1_000 > bounds.lag_age_ms_max:
        allowed_s = bounds.lag_age_ms_max / 1_000
        found.append(f"{who} has not taken in a record for {progress.oldest_age_s:.0f} s; {allowed_s:g} s are allowed")
    if progress.lag_records is not None and progress.lag_records > bounds.lag_records_max:
        found.append(f"{who} is {progress.lag_records} records behind; {bounds.lag_records_max} are allowed")
    return tuple(found)

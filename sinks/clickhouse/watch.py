"""What the sink shows of itself: its figures and its checks."""

from collections.abc import Mapping
from typing import Final

from observe.figures import FIGURES
from observe.health import HEALTH, CheckName, CheckState
from observe.metrics import CLICKHOUSE_LAG, CLICKHOUSE_POSITION, CLICKHOUSE_RETRIES, CLICKHOUSE_WAITING_S
from observe.waiting import Waiting
from sinks.clickhouse.position import Position, TopicPartition

__all__ = ["SinkWatch", "answers", "does_not_answer"]

_SHOW_INTERVAL_S: Final = 0.5
_CHECKS: Final = {"clickhouse": CheckName.CLICKHOUSE, "kafka": CheckName.KAFKA}


def does_not_answer(server: str, error: str) -> None:
    """`server` is clickhouse or kafka; it is tried again for ever."""
    FIGURES.add(CLICKHOUSE_RETRIES, 1, server)
    do = f"see that {server} runs and takes this sink's password; the sink goes on by itself"
    HEALTH.report(_CHECKS[server], CheckState.RED, error, do)


def answers(server: str) -> None:
    """It took part."""
    HEALTH.report(_CHECKS[server])


class SinkWatch:
    """Says how far the sink is. Times are of one monotonic clock."""

    def __init__(self, age_s_max: float) -> None:
        self._age_s_max = age_s_max
        self._waiting = Waiting()
        self._shown_s = 0.0

    def is_time(self, now_s: float) -> bool:
        """Whether to `show` again."""
        return now_s - self._shown_s >= _SHOW_INTERVAL_S

    def show(self, stored: Mapping[TopicPartition, Position], ends: Mapping[TopicPartition, int], now_s: float) -> None:
        """`stored`: what ClickHouse has for certain. `ends`: of the partitions whose end is known, as last fetched."""
        self._shown_s = now_s
        reached = {partition: position.reached.next_offset for partition, position in stored.items()}
        known = {partition: ends[partition] for partition in reached.keys() & ends.keys()}
        for partition, end in known.items():
            self._waiting.saw_end(partition, end, now_s)
        ages = {partition: self._waiting.age(partition, reached[partition], now_s).seconds for partition in known}
        FIGURES.set_all(CLICKHOUSE_POSITION, dict(reached))
        FIGURES.set_all(
            CLICKHOUSE_LAG, {partition: max(0, end - reached[partition]) for partition, end in known.items()}
        )
        FIGURES.set(CLICKHOUSE_WAITING_S, max(ages.values(), default=0.0))
        self._check(ages)
        HEALTH.turned()

    def _check(self, ages: Mapping[TopicPartition, float]) -> None:
        worst = max(ages, key=lambda partition: ages[partition], default=None)
        if worst is None or ages[worst] <= self._age_s_max:
            HEALTH.report(CheckName.CLICKHOUSE_SINK)
            return
        message = f"a record of {worst} has not been stored for {ages[worst]:.0f} s; {self._age_s_max:g} s are allowed"
        do = "see that ClickHouse takes inserts, and that this sink is alone and has a core"
        HEALTH.report(CheckName.CLICKHOUSE_SINK, CheckState.RED, message, do)

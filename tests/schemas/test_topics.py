"""The topics' settings, each with the promise that it keeps."""

from __future__ import annotations

import pytest

from billing.metering.rules import WINDOW_MS
from schemas import topics
from schemas.ledger import PART_BYTES_MAX
from schemas.topics import TOPICS, Topic

DAY_MS = 24 * 60 * 60 * 1_000
BY_NAME = {topic.name: topic for topic in TOPICS}


def kept_ms(topic: str) -> int:
    return int(BY_NAME[topic].settings["retention.ms"])


def test_every_name_is_a_topic_once() -> None:
    named = {value for name, value in vars(topics).items() if name.isupper() and isinstance(value, str)}
    assert set(BY_NAME) == named - {topics.FOLD_GROUP, topics.FORWARDER_GROUP, "-1"}
    assert len(BY_NAME) == len(TOPICS)


@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)
def test_every_topic_says_how_it_is_kept(topic: Topic) -> None:
    policy = topic.settings["cleanup.policy"]
    assert policy in ("delete", "compact", "compact,delete")
    assert ("retention.ms" in topic.settings) == ("delete" in policy.split(","))


@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)
def test_time_is_the_brokers(topic: Topic) -> None:
    """Retention goes by it: a worker whose clock is 80 days behind wrote ids that were deleted at once."""
    assert topic.settings["message.timestamp.type"] == "LogAppendTime"


def test_usage_is_kept_longer_than_its_ids_are_compared() -> None:
    assert kept_ms(topics.USAGE_EVENTS) == 35 * DAY_MS == WINDOW_MS + DAY_MS


def test_history_waits_longer_than_it_could_count() -> None:
    """What retention takes of it unforwarded was too old before."""
    assert kept_ms(topics.USAGE_BACKFILL) == 40 * DAY_MS > WINDOW_MS + DAY_MS
    limits = {BY_NAME[name].settings["max.message.bytes"] for name in (topics.USAGE_BACKFILL, topics.USAGE_EVENTS)}
    assert len(limits) == 1, "what one takes the other takes"


def test_the_ledger_is_kept_for_ever() -> None:
    assert BY_NAME[topics.LEDGER].settings["retention.ms"] == "-1"
    assert BY_NAME[topics.LEDGER].settings["retention.bytes"] == "-1"
    assert BY_NAME[topics.LEDGER].settings["cleanup.policy"] == "delete"


def test_ids_are_kept_longer_than_they_count() -> None:
    """Twice the window: a worker that loads its table anew must find each id that still counts."""
    assert kept_ms(topics.SEEN_CHANGELOG) == 75 * DAY_MS
    assert kept_ms(topics.SEEN_CHANGELOG) > 2 * (WINDOW_MS + DAY_MS)


def test_open_rows_are_kept_longer_than_they_are_open() -> None:
    assert kept_ms(topics.USAGE_TOTALS) == 40 * DAY_MS
    assert kept_ms(topics.USAGE_TOTALS) > 35 * DAY_MS


def test_accounts_are_never_deleted_and_tombstones_live_two_weeks() -> None:
    settings = BY_NAME[topics.ACCOUNTS_CHANGELOG].settings
    assert settings["cleanup.policy"] == "compact"
    assert settings["delete.retention.ms"] == str(14 * DAY_MS)


def test_intents_are_kept_for_a_year_and_a_month_and_not_compacted() -> None:
    settings = BY_NAME[topics.STRIPE_INTENTS].settings
    assert settings["cleanup.policy"] == "delete"
    assert settings["retention.ms"] == str(400 * DAY_MS)


def test_a_dead_letter_has_room_for_the_record_it_holds() -> None:
    record_bytes_max = int(BY_NAME[topics.USAGE_EVENTS].settings["max.message.bytes"])
    assert int(BY_NAME[topics.DEAD_LETTERS].settings["max.message.bytes"]) == 2 * record_bytes_max
    assert kept_ms(topics.DEAD_LETTERS) == 90 * DAY_MS


def test_a_part_of_a_fact_fits_a_brokers_default() -> None:
    assert PART_BYTES_MAX < 1_048_588 // 2


def test_control_is_one_partition_that_is_compacted_within_the_hour() -> None:
    control = BY_NAME[topics.CONTROL]
    assert control.single_partition
    assert control.settings["cleanup.policy"] == "compact"
    assert control.settings["max.compaction.lag.ms"] == str(DAY_MS // 24)
    assert not any(topic.single_partition for topic in TOPICS if topic.name != topics.CONTROL)

"""The sink as a process on a real broker against the double: what it tells, what it refuses, how it ends."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

import pytest

from billing.quantities import NANO
from billing.state import StripeHourKey
from runtime.embedded.kafka import EmbeddedKafka
from schemas.intents import Status, Target, Window
from sinks.stripe.sink import EXIT_MISCONFIGURED, StripeSinkConfig
from tests.sinks.stripe.world import (
    Fold,
    assert_exact,
    assert_stops,
    double,
    ended,
    make_topics,
    sinks,
    told,
    until,
    until_hanging,
    until_told,
)

HOUR = int(time.time()) // 3_600
ADA = StripeHourKey(HOUR, "org/ada", "org/ada", "tokens")


@pytest.mark.broker
def test_a_dry_run_says_so_and_ends_clean_and_the_next_one_sends_nothing_again(broker: str, tmp_path: Path) -> None:
    async def main() -> None:
        fold = Fold(broker)
        async with double(tmp_path) as found, sinks(broker, found.url, tmp_path) as processes:
            fold.add((ADA, 5 * NANO), (ADA._replace(stripe_event_name="calls"), 7))
            process = processes.start()
            await assert_exact(broker, fold, found)
            await assert_stops(process)
            assert "a dry run: nothing reaches Stripe" in processes.log()
            assert '"target": "double"' in processes.log()
            book = await told(broker)
            assert {outcome.livemode for outcome in book.accepted.values()} == {False}
            again = processes.start()
            await until(lambda: processes.log().count("sink.stripe.ready") == 2, "the second start")
            fold.add((ADA, 1))
            await assert_exact(broker, fold, found)
            await assert_stops(again)
            assert len(found.identifiers()) == 3

    asyncio.run(main())


@pytest.mark.broker
def test_a_start_tells_nothing_of_hours_that_stripe_takes_no_more(broker: str, tmp_path: Path) -> None:
    """Compaction keeps rows longer than intents are read back: an old hour looks as if nobody had told it."""

    async def main() -> None:
        fold = Fold(broker)
        async with double(tmp_path) as found, sinks(broker, found.url, tmp_path) as processes:
            fold.add((ADA._replace(hour=HOUR - 60 * 24), 5 * NANO), (ADA, 1 * NANO))
            process = processes.start()
            await until(lambda: len(found.identifiers()) == 1, "the hour that Stripe takes")
            await assert_stops(process)
            book = await told(broker)
            assert {window.hour for window in book.accepted} == {HOUR}
            assert book.refused == {}

    asyncio.run(main())


@pytest.mark.broker
def test_refusals_are_outcomes_and_a_mended_meter_gets_what_it_missed(broker: str, tmp_path: Path) -> None:
    async def main() -> None:
        fold = Fold(broker)
        rockets = ADA._replace(stripe_event_name="rockets")
        raw = ADA._replace(stripe_event_name="raw")
        long = ADA._replace(hour=HOUR - 1)
        old = ADA._replace(
            hour=HOUR - 36 * 24 + 2
        )  # too old for Stripe, and not yet let go of when the hour turns meanwhile
        images = ADA._replace(stripe_event_name="images")
        async with double(tmp_path) as found, sinks(broker, found.url, tmp_path) as processes:
            await found.make_meter(event_name="raw", display_name="Raw", **{"default_aggregation[formula]": "sum"})
            await found.switch("images", "deactivate")
            fold.add((rockets, 5 * NANO), (raw, 5 * NANO), (long, 12_345_678_123_456_789), (old, NANO), (images, NANO))
            fold.add((ADA, 5 * NANO))
            process = processes.start(meters_retry_s=0.2)
            codes = {
                rockets: "no_meter",
                raw: "meter_without_hour_window",
                long: "payload_invalid_value",
                old: "timestamp_too_far_in_past",
                images: "archived_meter",
            }
            refused = {
                Window(key.stripe_customer, key.stripe_event_name, key.hour): code for key, code in codes.items()
            }
            taken = Window("org/ada", "tokens", HOUR)
            book = await until_told(
                broker, lambda book: book.accepted and {w: o.code for w, o in book.refused.items()} == refused
            )
            assert found.standing() == {taken: "5"}
            assert not book.pending
            hourly = {"default_aggregation[formula]": "sum", "event_time_window": "hour"}
            await found.make_meter(event_name="rockets", display_name="Rockets", **hourly)
            await found.switch("images", "reactivate")
            mended = {taken: "5", Window("org/ada", "rockets", HOUR): "5", Window("org/ada", "images", HOUR): "1"}
            await until(lambda: found.standing() == mended, "what the mended meters missed")
            await found.switch("tokens", "deactivate")
            fold.add((ADA, NANO))
            await until_told(broker, lambda book: taken in book.refused)
            await until(
                lambda: '"unusable": ["tokens"]' in processes.log().replace('"raw", ', ""), "the archived meter seen"
            )
            await found.switch("tokens", "reactivate")
            await until(lambda: found.standing() == mended | {taken: "6"}, "what the meter missed meanwhile")
            await assert_stops(process)

    asyncio.run(main())


@pytest.mark.broker
def test_with_a_key_only_customers_of_stripes_are_told_and_the_others_are_listed(broker: str, tmp_path: Path) -> None:
    async def main() -> None:
        fold = Fold(broker)
        async with double(tmp_path) as found, sinks(broker, found.url, tmp_path) as processes:
            linked = StripeHourKey(HOUR, "org/bob", "cus_bob", "tokens")
            fold.add((ADA, 5 * NANO), (linked, 7 * NANO))
            process = processes.start(api_key="sk_live_of_a_test")
            await until(
                lambda: found.standing() == {Window("cus_bob", "tokens", HOUR): "7"}, "the linked customer's total"
            )
            book = await until_told(broker, lambda book: book.accepted and book.unlinked, Target.LIVE)
            (outcome,) = book.unlinked.values()
            assert (outcome.stripe_customer, outcome.status, outcome.quantity) == ("org/ada", Status.UNLINKED, "5")
            assert (await told(broker, Target.DOUBLE)).accepted == {}
            assert "sk_live_of_a_test" not in processes.log()
            await assert_stops(process)

    asyncio.run(main())


@pytest.mark.broker
def test_it_stops_within_five_seconds_while_stripe_is_silent_and_the_next_goes_on(broker: str, tmp_path: Path) -> None:
    async def main() -> None:
        fold = Fold(broker)
        async with double(tmp_path) as found, sinks(broker, found.url, tmp_path) as processes:
            await found.order(next=["timeout_after_commit"] * 3, hang_ms=20_000)
            fold.add((ADA, 5 * NANO))
            process = processes.start(request_timeout_s=60)
            await until_hanging(found, 1)
            await assert_stops(process)
            assert (await told(broker)).pending_count == 1
            await found.order()
            process = processes.start()
            await assert_exact(broker, fold, found)
            await assert_stops(process)

    asyncio.run(main())


@pytest.mark.broker
def test_settings_that_cannot_work_end_it_with_what_to_change(broker: str, tmp_path: Path) -> None:
    async def main() -> None:
        fold = Fold(broker)
        async with double(tmp_path) as found, sinks(broker, found.url, tmp_path) as processes:
            fold.add((ADA, NANO))
            assert await ended(processes.start(url=None)) == EXIT_MISCONFIGURED
            assert "METERLOG_STRIPE_API_KEY" in processes.log()
            assert await ended(processes.start(api_key="not a key")) == EXIT_MISCONFIGURED
            assert "Stripe refuses the key" in processes.log()
            assert found.standing() == {}

    asyncio.run(main())


def test_the_key_does_not_show_in_the_settings() -> None:
    assert "sk_live" not in repr(StripeSinkConfig("127.0.0.1:9092", "sk_live_x"))


@pytest.mark.broker
@pytest.mark.faults
def test_it_outlives_its_broker_and_ends_in_time_without_one(tmp_path: Path) -> None:
    async def main(kafka: EmbeddedKafka) -> None:
        servers = kafka.bootstrap_servers
        fold = Fold(servers)
        async with double(tmp_path) as found, sinks(servers, found.url, tmp_path) as processes:
            fold.add((ADA, 5 * NANO))
            process = processes.start()
            await assert_exact(servers, fold, found)
            kafka.kill()
            await asyncio.to_thread(kafka.restart)
            fold.add((ADA, 4 * NANO))

            def is_told() -> bool:
                nonlocal process
                if process.poll() is not None:  # it may give up: whoever supervises it starts another
                    process = processes.start()
                return found.standing() == fold.expected()

            await until(is_told, "the total after the broker's restart")
            await assert_exact(servers, fold, found)
            kafka.kill()
            process.send_signal(signal.SIGTERM)
            await ended(process, 5)

    with EmbeddedKafka(tmp_path / "kafka") as kafka:
        make_topics(kafka.bootstrap_servers)
        asyncio.run(main(kafka))

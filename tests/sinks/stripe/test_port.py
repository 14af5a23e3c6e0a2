"""One behaviour of the port, in dictionaries and over Stripe's library against the double."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from runtime.embedded.stripe import make_app, running
from schemas.intents import Target
from sinks.stripe.client import StripeMeters, target_of
from sinks.stripe.errors import Misconfigured, Refused, TryAgain, Unknown
from sinks.stripe.port import HOUR_S, Accepted, MemoryMeters, MeterEvent, MeterInfo, Meters

HOUR = 500_000
NOW_S = HOUR * HOUR_S + 1_800
EVENT = MeterEvent("tokens", "id-1", "stripe_customer_id", "org/ada", "value", "12.5", HOUR * HOUR_S)

Scene = Callable[[Meters], Awaitable[None]]


class MetersContract:
    """What every implementation does."""

    def play(self, scene: Scene, tmp_path: Path) -> None:
        raise NotImplementedError

    def test_the_last_value_of_an_hour_stands(self, tmp_path: Path) -> None:
        async def scene(meters: Meters) -> None:
            meter_id = (await meters.meters())["tokens"].meter_id
            for n, (value, hour) in enumerate([("5", HOUR), ("1", HOUR - 130), ("12.5", HOUR), ("2", HOUR - 1)]):
                event = EVENT._replace(identifier=f"id-{n}", value=value, timestamp_s=hour * HOUR_S + n)
                assert not (await meters.send(event)).was_duplicate
            whole = await meters.hours(meter_id, "org/ada", (HOUR - 200) * HOUR_S, (HOUR + 1) * HOUR_S)
            assert whole == {HOUR: 12.5, HOUR - 1: 2.0, HOUR - 130: 1.0}
            assert await meters.hours(meter_id, "org/ada", HOUR * HOUR_S, (HOUR + 1) * HOUR_S) == {HOUR: 12.5}
            assert await meters.hours(meter_id, "org/bob", HOUR * HOUR_S, (HOUR + 1) * HOUR_S) == {}

        self.play(scene, tmp_path)

    def test_the_same_identifier_again_is_accepted_and_changes_nothing(self, tmp_path: Path) -> None:
        async def scene(meters: Meters) -> None:
            await meters.send(EVENT)
            await meters.send(EVENT._replace(identifier="id-2", value="20"))
            await meters.send(EVENT)
            meter_id = (await meters.meters())["tokens"].meter_id
            assert await meters.hours(meter_id, "org/ada", HOUR * HOUR_S, (HOUR + 1) * HOUR_S) == {HOUR: 20.0}

        self.play(scene, tmp_path)

    def test_a_meter_that_is_not_there_refuses(self, tmp_path: Path) -> None:
        async def scene(meters: Meters) -> None:
            with pytest.raises(Refused) as refused:
                await meters.send(EVENT._replace(event_name="rockets"))
            assert refused.value.code == "no_meter"

        self.play(scene, tmp_path)

    def test_meters_are_listed_with_what_the_sink_must_know(self, tmp_path: Path) -> None:
        async def scene(meters: Meters) -> None:
            tokens = (await meters.meters())["tokens"]
            assert tokens[2:] == ("hour", "sum", "stripe_customer_id", "value", True)
            assert tokens.why_unusable is None

        self.play(scene, tmp_path)


class TestMemoryMeters(MetersContract):
    def play(self, scene: Scene, tmp_path: Path) -> None:
        info = MeterInfo("mtr_1", "tokens", "hour", "sum", "stripe_customer_id", "value", active=True)
        asyncio.run(scene_of(scene, MemoryMeters({"tokens": info})))


class TestStripeMeters(MetersContract):
    def play(self, scene: Scene, tmp_path: Path) -> None:
        async def main() -> None:
            async with running(make_app(tmp_path, lambda: NOW_S * 1_000, faults=True), 0) as url:
                await scene_of(scene, StripeMeters(None, url, 5))

        asyncio.run(main())


async def scene_of(scene: Scene, meters: Meters) -> None:
    try:
        await scene(meters)
    finally:
        await meters.close()


Faulty = Callable[[StripeMeters, Callable[..., Awaitable[None]]], Awaitable[None]]


def play_faulty(tmp_path: Path, scene: Faulty, api_key: str | None = None) -> None:
    """Stripe's library against a double whose faults the scene orders."""

    async def main() -> None:
        app = make_app(tmp_path, lambda: NOW_S * 1_000, faults=True)
        async with running(app, 0) as url, aiohttp.ClientSession() as session:

            async def order(**wanted: object) -> None:
                async with session.post(f"{url}/_double/faults", json=wanted) as answer:
                    assert answer.status == 200

            meters = StripeMeters(api_key, url, 0.3)
            try:
                await scene(meters, order)
            finally:
                await meters.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("fault", "raised"),
    [
        ("rate_limited", TryAgain),
        ("error_500", Unknown),
        ("error_500_after_commit", Unknown),
        ("cut_before_commit", Unknown),
        ("cut_after_commit", Unknown),
        ("timeout_before_commit", Unknown),
        ("timeout_after_commit", Unknown),
        ("late_commit", Unknown),
    ],
)
def test_a_fault_is_named_and_the_same_event_again_is_accepted(
    tmp_path: Path, fault: str, raised: type[TryAgain]
) -> None:
    async def scene(meters: StripeMeters, order: Callable[..., Awaitable[None]]) -> None:
        await order(next=[fault], hang_ms=500)
        with pytest.raises(TryAgain) as found:
            await meters.send(EVENT)
        assert type(found.value) is raised
        accepted = await until_accepted(meters)
        assert accepted.was_duplicate is (fault == "cut_after_commit")

    play_faulty(tmp_path, scene)


async def until_accepted(meters: StripeMeters) -> Accepted:
    """Again and again, as long as Stripe is still busy with the first try."""
    async with asyncio.timeout(10):
        while True:
            try:
                return await meters.send(EVENT)
            except TryAgain:
                await asyncio.sleep(0.02)


def test_a_list_of_many_meters_is_read_to_its_end(tmp_path: Path) -> None:
    async def main() -> None:
        app = make_app(tmp_path, lambda: NOW_S * 1_000)
        async with running(app, 0) as url, aiohttp.ClientSession() as session:
            for n in range(130):
                form = {"event_name": f"m{n}", "display_name": "M", "default_aggregation[formula]": "sum"}
                headers = {"Authorization": "Bearer sk_test_x"}
                async with session.post(f"{url}/v1/billing/meters", data=form, headers=headers) as answer:
                    assert answer.status == 200
            meters = StripeMeters(None, url, 5)
            found = await meters.meters()
            await meters.close()
            assert len(found) == 135
            assert found["m7"].why_unusable == "meter_without_hour_window"

    asyncio.run(main())


def test_a_dry_run_does_not_talk_to_what_is_no_double(tmp_path: Path) -> None:
    async def other(_: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [], "has_more": False, "url": "/v1/billing/meters"})

    async def main() -> None:
        app = web.Application()
        app.router.add_get("/v1/billing/meters", other)
        async with running(app, 0) as url:
            meters = StripeMeters(None, url, 5)
            with pytest.raises(Misconfigured, match="is not the double"):
                await meters.meters()
            await meters.close()

    asyncio.run(main())


def test_without_a_key_and_a_double_there_is_nobody_to_tell() -> None:
    with pytest.raises(Misconfigured, match="METERLOG_STRIPE_API_KEY"):
        StripeMeters(None, None, 5)


@pytest.mark.parametrize(
    ("key", "target"),
    [(None, Target.DOUBLE), ("sk_test_1", Target.TEST), ("sk_live_1", Target.LIVE), ("rk_live_1", Target.LIVE)],
)
def test_the_key_says_who_is_told(key: str | None, target: Target) -> None:
    assert target_of(key) is target

"""The double keeps Stripe's rules for billing meters, over restarts, with a clock of the test's own."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from runtime.embedded import ports
from runtime.embedded.stripe import DOUBLE_HEADER, make_app, running
from runtime.embedded.stripe_http import parse_form

NOW_S = 1_790_000_000 // 3_600 * 3_600 + 1_800  # half past an hour
HOUR_S = 3_600
DAY_S = 86_400


class Clock:
    def __init__(self) -> None:
        self.now_s = NOW_S

    def __call__(self) -> int:
        return self.now_s * 1_000


class Client:
    """Speaks to a double as a program without Stripe's library would."""

    def __init__(self, url: str, session: aiohttp.ClientSession, clock: Clock) -> None:
        self.url, self.session, self.clock = url, session, clock

    async def call(self, method: str, path: str, **more: Any) -> tuple[int, Any, Any]:
        headers = {"Authorization": "Bearer sk_test_x", **more.pop("headers", {})}
        async with self.session.request(method, self.url + path, headers=headers, **more) as answer:
            return answer.status, await answer.json(), answer.headers

    async def send(self, value: str = "5", *, key: str | None = None, **changes: Any) -> tuple[int, Any]:
        """A v2 meter event of `cus_1` on `tokens`, with `changes` (None: left out)."""
        body: dict[str, Any] = {
            "event_name": "tokens",
            "identifier": changes.get("identifier", "id-1"),
            "payload": {"stripe_customer_id": "cus_1", "value": value},
        }
        body.update(changes)
        body = {name: given for name, given in body.items() if given is not None}
        headers = {} if key is None else {"Idempotency-Key": key}
        status, answer, _ = await self.call("POST", "/v2/billing/meter_events", json=body, headers=headers)
        return status, answer

    async def hours(self, customer: str = "cus_1", event_name: str = "tokens") -> dict[int, float]:
        """What stands of the last two days, by hour's start."""
        end_s = self.clock.now_s // HOUR_S * HOUR_S + HOUR_S
        query = {
            "customer": customer,
            "start_time": str(end_s - 2 * DAY_S),
            "end_time": str(end_s),
            "value_grouping_window": "hour",
            "limit": "100",
        }
        meter = (await self.meter(event_name))["id"]
        _, answer, _ = await self.call("GET", f"/v1/billing/meters/{meter}/event_summaries", params=query)
        return {summary["start_time"]: summary["aggregated_value"] for summary in answer["data"]}

    async def meter(self, event_name: str) -> Any:
        _, answer, _ = await self.call("GET", "/v1/billing/meters", params={"limit": "100"})
        return next(meter for meter in answer["data"] if meter["event_name"] == event_name)


Scene = Callable[[Client], Awaitable[None]]


def play(data_dir: Path, scene: Scene, clock: Clock | None = None, **options: bool) -> None:
    """Run `scene` against a double on `data_dir` that lives as long as the scene."""

    async def main() -> None:
        own_clock = clock or Clock()
        async with running(make_app(data_dir, own_clock, **options), 0) as url, aiohttp.ClientSession() as session:
            await scene(Client(url, session, own_clock))

    asyncio.run(main())


def iso(moment_s: int) -> str:
    return datetime.fromtimestamp(moment_s, UTC).isoformat()


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        pytest.param({}, None, id="an event within the rules is taken"),
        pytest.param({"value": "0"}, None, id="zero is a value"),
        pytest.param({"value": "0.5"}, None, id="a plain decimal is a value"),
        pytest.param({"value": "123456789012345"}, None, id="15 digits are taken"),
        pytest.param({"value": "0000000123456789012345"}, None, id="leading zeros are no digits"),
        pytest.param({"value": "1234567890123456"}, "payload_invalid_value", id="16 digits are refused"),
        pytest.param(
            {"value": "1234567.123456789"}, "payload_invalid_value", id="16 digits around a point are refused"
        ),
        pytest.param({"value": "-1"}, "payload_invalid_value", id="a negative value is refused"),
        pytest.param({"value": "1e3"}, "payload_invalid_value", id="an exponent is refused"),
        pytest.param({"value": "nan"}, "payload_invalid_value", id="NaN is refused"),
        pytest.param({"payload": {"value": "1"}}, "payload_no_customer_defined", id="a customer is needed"),
        pytest.param({"payload": {"stripe_customer_id": "c"}}, "payload_no_value_defined", id="a value is needed"),
        pytest.param({"event_name": "rockets"}, "no_meter", id="a meter is needed"),
        pytest.param({"identifier": "x" * 100}, None, id="an identifier of 100 characters is taken"),
        pytest.param({"identifier": "x" * 101}, "parameter_invalid", id="an identifier of 101 is refused"),
        pytest.param({"timestamp": iso(NOW_S - 35 * DAY_S)}, None, id="35 days back is taken"),
        pytest.param(
            {"timestamp": iso(NOW_S - 35 * DAY_S - 1)}, "timestamp_too_far_in_past", id="a second more is too old"
        ),
        pytest.param({"timestamp": iso(NOW_S + 300)}, None, id="5 minutes ahead is taken"),
        pytest.param({"timestamp": iso(NOW_S + 301)}, "timestamp_in_future", id="a second more is the future"),
        pytest.param({"timestamp": "yesterday"}, "parameter_invalid", id="a timestamp is RFC 3339"),
        pytest.param({"timestamp": "2026-01-01T00:00:00"}, "parameter_invalid", id="a timestamp has a zone"),
    ],
)
def test_v2_takes_an_event_or_names_the_rule(tmp_path: Path, changes: dict[str, Any], code: str | None) -> None:
    async def scene(client: Client) -> None:
        status, answer = await client.send(**changes)
        if code is None:
            assert (status, answer["object"], answer["livemode"]) == (200, "v2.billing.meter_event", False)
        else:
            assert (status, answer["error"]["code"]) == (400, code)

    play(tmp_path, scene)


def test_an_identifier_is_unique_for_a_rolling_day(tmp_path: Path) -> None:
    async def scene(client: Client) -> None:
        assert (await client.send("5"))[0] == 200
        client.clock.now_s += DAY_S - 1
        status, answer = await client.send("6")
        assert (status, answer["error"]["code"]) == (400, "duplicate_meter_event")
        client.clock.now_s += 1
        assert (await client.send("6"))[0] == 200

    play(tmp_path, scene)


def test_v1_refuses_a_duplicate_without_a_code(tmp_path: Path) -> None:
    async def scene(client: Client) -> None:
        form = {
            "event_name": "tokens",
            "identifier": "id-1",
            "payload[stripe_customer_id]": "cus_1",
            "payload[value]": "5",
        }
        status, answer, _ = await client.call("POST", "/v1/billing/meter_events", data=form)
        assert (status, answer["object"], answer["payload"]["value"]) == (200, "billing.meter_event", "5")
        status, answer, _ = await client.call("POST", "/v1/billing/meter_events", data=form)
        assert status == 400
        assert "code" not in answer["error"]
        assert "already exists with identifier id-1" in answer["error"]["message"]

    play(tmp_path, scene)


def test_the_last_value_of_an_hour_stands_and_hours_stand_apart(tmp_path: Path) -> None:
    async def scene(client: Client) -> None:
        hour_s = NOW_S // HOUR_S * HOUR_S
        for n, (value, at_s) in enumerate([("10", hour_s), ("30", hour_s + 1), ("20", hour_s), ("7", hour_s - 1)]):
            assert (await client.send(value, identifier=f"id-{n}", timestamp=iso(at_s)))[0] == 200
        assert await client.hours() == {hour_s: 20.0, hour_s - HOUR_S: 7.0}

    play(tmp_path, scene)


def test_a_meter_without_windows_adds_every_event_up(tmp_path: Path) -> None:
    async def scene(client: Client) -> None:
        form = {"event_name": "raw", "display_name": "Raw", "default_aggregation[formula]": "sum"}
        status, meter, _ = await client.call("POST", "/v1/billing/meters", data=form)
        assert (status, meter["event_time_window"]) == (200, None)
        for n in range(3):
            await client.send("0.1", event_name="raw", identifier=f"id-{n}")
        # Added up exactly, then made a float: 0.1 + 0.1 + 0.1 as floats would be 0.30000000000000004.
        assert list((await client.hours(event_name="raw")).values()) == [0.3]

    play(tmp_path, scene)


def test_an_archived_meter_refuses_until_it_is_active_again(tmp_path: Path) -> None:
    async def scene(client: Client) -> None:
        meter = (await client.meter("tokens"))["id"]
        _, off, _ = await client.call("POST", f"/v1/billing/meters/{meter}/deactivate")
        assert off["status"] == "inactive"
        assert (await client.send())[1]["error"]["code"] == "archived_meter"
        await client.call("POST", f"/v1/billing/meters/{meter}/reactivate")
        assert (await client.send())[0] == 200

    play(tmp_path, scene)


def test_an_idempotency_key_repeats_its_answer_and_pins_the_request(tmp_path: Path) -> None:
    async def scene(client: Client) -> None:
        first = await client.send(key="k")
        assert await client.send(key="k") == first
        status, answer = await client.send("6", key="k")
        assert (status, answer["error"]["type"]) == (400, "idempotency_error")
        assert (await client.send(key="other"))[1]["error"]["code"] == "duplicate_meter_event"

    play(tmp_path, scene)


def test_one_event_of_a_customer_and_meter_is_taken_at_a_time(tmp_path: Path) -> None:
    async def scene(client: Client) -> None:
        await client.call("POST", "/_double/faults", json={"next": ["timeout_before_commit"], "hang_ms": 300})
        slow = asyncio.create_task(client.send(identifier="slow"))
        while (await client.call("GET", "/_double"))[1]["hanging"] == 0:
            await asyncio.sleep(0)
        status, answer = await client.send(identifier="second")
        assert (status, answer["error"]["code"]) == (409, "too_many_concurrent_requests")
        payload = {"stripe_customer_id": "cus_2", "value": "1"}
        assert (await client.send(identifier="third", payload=payload))[0] == 200
        with pytest.raises(aiohttp.ClientError):
            await slow
        assert (await client.send(identifier="second"))[0] == 200

    play(tmp_path, scene, faults=True)


@pytest.mark.parametrize(
    ("fault", "taken"),
    [
        ("rate_limited", False),
        ("error_500", False),
        ("error_500_after_commit", True),
        ("cut_before_commit", False),
        ("cut_after_commit", True),
        ("timeout_before_commit", False),
        ("timeout_after_commit", True),
        ("late_commit", True),
    ],
)
def test_a_fault_leaves_what_its_name_says(tmp_path: Path, fault: str, taken: bool) -> None:
    async def scene(client: Client) -> None:
        await client.call("POST", "/_double/faults", json={"next": [fault], "hang_ms": 10})
        try:
            status, _ = await client.send(key="k")
        except aiohttp.ClientError:
            status = 0
        assert status != 200
        assert bool(await client.hours()) is taken
        status, answer = await client.send(key="k")
        if fault == "cut_after_commit":
            assert answer["error"]["code"] == "duplicate_meter_event"
        else:
            assert status == 200
        assert list((await client.hours()).values()) == [5.0]

    play(tmp_path, scene, faults=True)


def test_faults_cannot_be_ordered_unless_asked_for(tmp_path: Path) -> None:
    async def scene(client: Client) -> None:
        assert (await client.call("POST", "/_double/faults", json={"next": ["error_500"]}))[0] == 404
        assert (await client.send())[0] == 200

    play(tmp_path, scene)


def test_summaries_come_in_pages_the_newest_first(tmp_path: Path) -> None:
    async def scene(client: Client) -> None:
        hour_s = NOW_S // HOUR_S * HOUR_S
        for n in range(5):
            await client.send(str(n), identifier=f"id-{n}", timestamp=iso(hour_s - n * HOUR_S))
        path = f"/v1/billing/meters/{(await client.meter('tokens'))['id']}/event_summaries"
        query = {"customer": "cus_1", "start_time": str(hour_s - 4 * HOUR_S), "end_time": str(hour_s + HOUR_S)}
        grouped = {**query, "value_grouping_window": "hour", "limit": "2"}
        found: list[Any] = []
        more = True
        while more:
            cursor = {"starting_after": found[-1]["id"]} if found else {}
            _, answer, _ = await client.call("GET", path, params={**grouped, **cursor})
            found += answer["data"]
            more = answer["has_more"]
        assert [(hour_s - s["start_time"]) // HOUR_S for s in found] == [0, 1, 2, 3, 4]
        assert [s["aggregated_value"] for s in found] == [0.0, 1.0, 2.0, 3.0, 4.0]
        _, whole, _ = await client.call("GET", path, params=query)
        assert [s["aggregated_value"] for s in whole["data"]] == [10.0]
        off_hour = {**grouped, "start_time": str(hour_s - HOUR_S + 60)}
        assert (await client.call("GET", path, params=off_hour))[0] == 400

    play(tmp_path, scene)


def test_a_customer_is_made_at_first_sight(tmp_path: Path) -> None:
    async def scene(client: Client) -> None:
        assert (await client.call("GET", "/v1/customers/cus_1"))[0] == 404
        await client.send()
        assert (await client.call("GET", "/v1/customers/cus_1"))[1]["object"] == "customer"

    play(tmp_path, scene)


def test_without_making_customers_unknown_usage_is_taken_then_dropped(tmp_path: Path) -> None:
    async def scene(client: Client) -> None:
        assert (await client.send())[0] == 200
        assert await client.hours() == {}
        _, shown, _ = await client.call("GET", "/_double")
        assert [event["code"] for event in shown["invalid_events"]] == ["meter_event_customer_not_found"]
        await client.call("POST", "/v1/customers", data={"id": "cus_1"})
        await client.send(identifier="id-2")
        assert list((await client.hours()).values()) == [5.0]

    play(tmp_path, scene, create_customers=False)


def test_everything_outlives_a_restart(tmp_path: Path) -> None:
    clock = Clock()

    async def before(client: Client) -> None:
        await client.send(key="k")

    async def after(client: Client) -> None:
        assert (await client.send(key="k"))[0] == 200
        assert (await client.send())[1]["error"]["code"] == "duplicate_meter_event"
        assert list((await client.hours()).values()) == [5.0]

    play(tmp_path, before, clock)
    play(tmp_path, after, clock)


def test_every_answer_says_that_it_is_a_double_and_wants_a_key(tmp_path: Path) -> None:
    async def scene(client: Client) -> None:
        for path, key, status in (
            ("/v1/billing/meters", "sk_test_x", 200),
            ("/v1/nothing", "sk_test_x", 404),
            ("/v1/billing/meters", "", 401),
        ):
            found, _, headers = await client.call("GET", path, headers={"Authorization": f"Bearer {key}"})
            assert (found, headers[DOUBLE_HEADER]) == (status, "1")

    play(tmp_path, scene)


def test_bodies_that_are_no_bodies_are_refused(tmp_path: Path) -> None:
    async def scene(client: Client) -> None:
        for body in (b"", b"{", b"[]", b'{"event_name": 1}', b"\xff\xfe"):
            assert (await client.call("POST", "/v2/billing/meter_events", data=body))[0] == 400
            assert (await client.call("POST", "/v1/billing/meter_events", data=body))[0] == 400

    play(tmp_path, scene)


def test_forms_are_read_as_nested_names() -> None:
    assert parse_form("a=1&b[c]=2&b[d][e]=3&f=") == {"a": "1", "b": {"c": "2", "d": {"e": "3"}}, "f": ""}
    assert parse_form("a=1&a[b]=2") == {"a": "1"}


def test_the_process_keeps_what_it_took_over_sigkill_and_ends_on_sigterm(tmp_path: Path) -> None:
    program = (
        "import signal, sys, threading; from pathlib import Path; from runtime.embedded.stripe import serve\n"
        "stop = threading.Event(); signal.signal(signal.SIGTERM, lambda *_: stop.set())\n"
        "sys.exit(serve(Path(sys.argv[1]), int(sys.argv[2]), stop))"
    )
    (port,) = ports.pick(1)

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", program, str(tmp_path), str(port)], env=dict(os.environ))

    async def talk(first: bool) -> None:
        async with aiohttp.ClientSession() as session:
            client = Client(f"http://127.0.0.1:{port}", session, Clock())
            async with asyncio.timeout(20):
                while not ports.accepts(port):
                    await asyncio.sleep(0.02)
            if first:
                assert (await client.send(timestamp=None))[0] == 200
            else:
                assert (await client.send(timestamp=None))[1]["error"]["code"] == "duplicate_meter_event"

    process = start()
    try:
        asyncio.run(talk(first=True))
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        process = start()
        asyncio.run(talk(first=False))
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 0
    finally:
        process.kill()
        process.wait()

"""GET /v1/customers/{id}/usage: exact sums of one organisation's customer, and as of when."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.window import Window, window_of
from billing.routing import partition_of
from schemas.topics import LEDGER
from tests.api.process import PARTITIONS, ApiProcess
from tests.api.tables import insert

Insert = Callable[..., None]
NOW = datetime.now(UTC)
MONTH = datetime(NOW.year, NOW.month, 1, tzinfo=UTC)
NEXT_MONTH = (MONTH + timedelta(days=32)).replace(day=1)
_versions = itertools.count(1)


@pytest.fixture
def add(clickhouse_settings: dict[str, str], org: str) -> Insert:
    """Adds an hour total, as the sink would."""

    def add_total(customer_id: str, meter: str, quantity: str, hour: datetime = MONTH, **more: Any) -> None:
        row = {
            "org": org,
            "customer_id": customer_id,
            "billing_start": MONTH,
            "meter": meter,
            "feature": more.get("feature", ""),
            "model": "",
            "hour": hour,
            "booking_day": more.get("booking_day", date(2026, 11, 1)),
            "quantity": Decimal(quantity),
            "event_count": more.get("event_count", 1),
            "digest": 0,
            "version": next(_versions),
        }
        insert(clickhouse_settings, "usage_hourly", [row])

    return add_total


def used(answer: httpx.Response) -> dict[str, tuple[str, int]]:
    assert answer.status_code == 200, answer.text
    return {row["meter"]: (row["quantity"], row["event_count"]) for row in answer.json()["usage"]}


def at(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def test_usage_is_summed_by_meter_over_the_current_month(client: httpx.Client, add: Insert) -> None:
    add("c", "calls", "2")
    add("c", "calls", "3", MONTH + timedelta(hours=1), event_count=2)
    add("c", "calls", "100", MONTH - timedelta(hours=1))
    add("c", "calls", "1000", NEXT_MONTH)
    add("c", "tokens", "12.500000001", feature="chat")
    add("c", "tokens", "0.5", booking_day=date(2026, 11, 2))
    add("other", "calls", "7")
    answer = client.get("/v1/customers/c/usage")
    assert used(answer) == {"calls": ("5", 3), "tokens": ("13.000000001", 2)}
    body = answer.json()
    assert (body["customer_id"], body["from"], body["to"]) == (
        "c",
        at(MONTH).replace("Z", ".000Z"),
        at(NEXT_MONTH).replace("Z", ".000Z"),
    )


def test_a_window_has_its_start_and_not_its_end(client: httpx.Client, add: Insert) -> None:
    for hour in range(4):
        add("c", "calls", str(10**hour), MONTH + timedelta(hours=hour))
    window = {"from": at(MONTH + timedelta(hours=1)), "to": at(MONTH + timedelta(hours=3))}
    assert used(client.get("/v1/customers/c/usage", params=window)) == {"calls": ("110", 2)}


def test_one_meter_may_be_asked_for(client: httpx.Client, add: Insert) -> None:
    add("c", "calls", "1")
    add("c", "tokens", "2")
    assert used(client.get("/v1/customers/c/usage", params={"meter": "tokens"})) == {"tokens": ("2", 1)}
    assert used(client.get("/v1/customers/c/usage", params={"meter": "none"})) == {}


def test_sums_are_exact_where_floats_are_not(client: httpx.Client, add: Insert) -> None:
    add("c", "calls", "999999999999999999.999999999")
    add("c", "calls", "0.000000001", MONTH + timedelta(hours=1))
    assert used(client.get("/v1/customers/c/usage")) == {"calls": ("1000000000000000000", 2)}


@pytest.mark.parametrize(
    "customer_id",
    ["a/b", "a/usage", "ü ?#&%", "o'; DROP TABLE usage --", "{org:String}", "back\\slash\ttab", "x" * 256],
)
def test_any_customer_id_is_found_as_it_is(client: httpx.Client, add: Insert, customer_id: str) -> None:
    add(customer_id, "calls", "1")
    path = "".join(f"%{byte:02X}" for byte in customer_id.encode())
    answer = client.get(f"/v1/customers/{path}/usage")
    assert used(answer) == {"calls": ("1", 1)}
    assert answer.json()["customer_id"] == customer_id


def test_slashes_need_no_escape(client: httpx.Client, add: Insert) -> None:
    add("a/b", "calls", "1")
    assert used(client.get("/v1/customers/a/b/usage")) == {"calls": ("1", 1)}


def test_another_organisation_s_customer_looks_like_one_without_usage(
    client: httpx.Client, add: Insert, new_client: Callable[..., httpx.Client]
) -> None:
    add("c", "calls", "1")
    stranger = new_client("stranger", "read")
    answers = [stranger.get(f"/v1/customers/{customer}/usage").json() for customer in ("c", "nobody")]
    for answer in answers:
        del answer["customer_id"], answer["as_of"]
    assert answers[0] == answers[1]
    assert answers[0]["usage"] == []


def test_as_of_is_the_log_time_of_the_customer_s_partition(
    client: httpx.Client, clickhouse_settings: dict[str, str], org: str
) -> None:
    customer_of: dict[int, str] = {}
    for number in range(100):
        customer_of.setdefault(partition_of(f"{org}/c{number}".encode(), PARTITIONS), f"c{number}")
    insert(
        clickhouse_settings, "sink_positions", [position(0, 5, 1_795_267_200_123), position(0, 9, 1_795_267_300_000)]
    )
    found = client.get(f"/v1/customers/{customer_of[0]}/usage").json()["as_of"]
    assert found == "2026-11-21T13:21:40.000Z"
    assert client.get(f"/v1/customers/{customer_of[1]}/usage").json()["as_of"] is None


def position(partition: int, next_offset: int, log_ms: int) -> dict[str, Any]:
    return {
        "topic": LEDGER,
        "partition": partition,
        "next_offset": next_offset,
        "source_offset": 0,
        "log_ms": log_ms,
        "rewind_next_offset": 0,
        "rewind_source_offset": 0,
        "rewind_log_ms": 0,
    }


@pytest.mark.parametrize(
    ("query", "name"),
    [
        pytest.param({"from": "2026-11-01T00:00:00"}, "from", id="a time without zone"),
        pytest.param({"from": "2026-11-01"}, "from", id="a date"),
        pytest.param({"to": "1795267200"}, "to", id="an epoch number"),
        pytest.param({"to": "2026-11-01T00:30:00Z"}, "to", id="half an hour"),
        pytest.param({"from": "2026-11-01T00:00:00+00:30"}, "from", id="an offset of half an hour"),
        pytest.param({"from": "2150-01-01T00:00:00Z", "to": "2151-01-01T00:00:00Z"}, "to", id="the year 2151"),
        pytest.param({"from": "1969-01-01T00:00:00Z"}, "from", id="before 1970"),
        pytest.param({"from": "2026-11-02T00:00:00Z", "to": "2026-11-02T00:00:00Z"}, "from", id="an empty window"),
        pytest.param({"from": "2026-11-03T00:00:00Z", "to": "2026-11-02T00:00:00Z"}, "from", id="a window backwards"),
        pytest.param({"form": "2026-11-01T00:00:00Z"}, "form", id="a misspelt parameter"),
        pytest.param({"meter": ["a", "b"]}, "meter", id="a parameter twice"),
        pytest.param({"meter": "x" * 129}, "meter", id="a meter of 129 bytes"),
        pytest.param({"meter": "a\0b"}, "meter", id="a zero byte"),
    ],
)
def test_a_bad_query_is_a_400_that_names_its_parameter(client: httpx.Client, query: dict[str, Any], name: str) -> None:
    answer = client.get("/v1/customers/c/usage", params=query)
    assert answer.status_code == 400, answer.text
    assert name in answer.json()["error"]["details"]


def test_everything_that_is_wrong_is_listed(client: httpx.Client) -> None:
    answer = client.get("/v1/customers/c/usage?from=x&to=y&form=z&meter=a&meter=b")
    assert set(answer.json()["error"]["details"]) == {"from", "to", "form", "meter"}


def test_a_customer_id_that_cannot_be_one_is_a_400(client: httpx.Client) -> None:
    answer = client.get(f"/v1/customers/{'x' * 257}/usage")
    assert answer.status_code == 400
    assert "customer_id" in answer.json()["error"]["details"]


def test_without_clickhouse_the_answer_is_503(
    tmp_path: Path, broker: str, clickhouse_settings: dict[str, str], client: httpx.Client
) -> None:
    away = {**clickhouse_settings, "clickhouse_url": "http://127.0.0.1:9"}
    with ApiProcess(tmp_path, bootstrap_servers=broker, **away) as node:
        node.wait_for_keys()
        headers = {"Authorization": client.headers["Authorization"]}
        answer = httpx.get(f"{node.url}/v1/customers/c/usage", headers=headers, timeout=30)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "USAGE_UNAVAILABLE")
        assert answer.headers["retry-after"]
        assert clickhouse_settings["clickhouse_password"] not in node.log


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1_000)


def window(start: str, end: str) -> Window:
    return Window(ms(start) // 1_000, ms(end) // 1_000)


@pytest.mark.parametrize(
    ("query", "now", "expected"),
    [
        pytest.param(
            {},
            "2026-12-31T23:59:59Z",
            window("2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z"),
            id="December's last second",
        ),
        pytest.param(
            {},
            "2027-01-01T00:00:00Z",
            window("2027-01-01T00:00:00Z", "2027-02-01T00:00:00Z"),
            id="January's first second",
        ),
        pytest.param(
            {"to": "2026-11-01T00:00:00Z"},
            "2026-12-15T00:00:00Z",
            window("2026-10-01T00:00:00Z", "2026-11-01T00:00:00Z"),
            id="an end at a month's first means the month before",
        ),
        pytest.param(
            {"from": "2026-10-05T04:00:00+02:00"},
            "2026-12-15T00:00:00Z",
            window("2026-10-05T02:00:00Z", "2027-01-01T00:00:00Z"),
            id="a start alone goes to the current month's end",
        ),
    ],
)
def test_windows_have_the_month_as_their_default(query: dict[str, str], now: str, expected: Window) -> None:
    problems: dict[str, str] = {}
    assert window_of(query, ms(now), problems) == expected
    assert problems == {}


def test_a_start_behind_the_current_month_needs_an_end() -> None:
    problems: dict[str, str] = {}
    window_of({"from": "2027-03-01T00:00:00Z"}, ms("2026-12-15T00:00:00Z"), problems)
    assert problems == {"from": "is not before to"}

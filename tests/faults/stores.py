"""Independent readers of what left the log: ClickHouse's views and the Stripe double's summaries, each over plain HTTP."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any, Final

from tests.faults.books import Differences, different
from tests.faults.naive import Model, Sum, Used

__all__ = ["clickhouse_differences", "stripe_differences"]

_TIMEOUT_S: Final = 30.0
_HOUR_S: Final = 3_600
_STRIPE_KEY: Final = "sk_test_naive"
_DATABASE: Final = "meterlog"

_USAGE = (
    "SELECT org, customer_id, meter, toString(sum(quantity)), toUInt32(sum(event_count)) FROM {}.usage GROUP BY 1, 2, 3"
)
_EVENTS = "SELECT org, customer_id, meter, toString(sum(quantity)), toUInt32(count()) FROM {}.events GROUP BY 1, 2, 3"
_IDS = "SELECT DISTINCT concat(org, '/', customer_id), event_id FROM {}.events"
_REJECTED = "SELECT reason, toUInt32(count()) FROM {}.rejected GROUP BY 1"
_DIGESTS = """
    SELECT toUInt32(count()) FROM
        (SELECT org, customer_id, meter, feature, model, hour, sum(digest) AS told FROM {0}.usage GROUP BY ALL) AS totals
    FULL OUTER JOIN
        (SELECT org, customer_id, meter, feature, model, hour, sum(digest) AS reckoned FROM {0}.events GROUP BY ALL) AS events
    USING (org, customer_id, meter, feature, model, hour)
    WHERE told != reckoned
"""
"""Totals whose digest is not the one of the events under them."""


def clickhouse_differences(url: str, user: str, password: str, model: Model) -> Differences:
    """The views that analysts use, against what was sent."""

    def ask(query: str) -> Iterator[list[Any]]:
        return _clickhouse_rows(url, user, password, query.format(_DATABASE))

    usage = model.usage
    found = different("clickhouse: usage", usage, _sums(ask(_USAGE)))
    found += different("clickhouse: events", usage, _sums(ask(_EVENTS)))
    found += different("clickhouse: ids", dict.fromkeys(model.counted, 1), {(a, i): 1 for a, i in ask(_IDS)})
    found += different("clickhouse: rejected", model.rejected, dict(ask(_REJECTED)))
    ((wrong_digests,),) = ask(_DIGESTS)
    return found + different("clickhouse: digests", {"wrong": 0}, {"wrong": wrong_digests})


def _sums(rows: Iterator[list[Any]]) -> dict[Used, Sum]:
    return {
        Used(f"{org}/{customer}", meter): Sum(Decimal(quantity), events)
        for org, customer, meter, quantity, events in rows
    }


def _clickhouse_rows(url: str, user: str, password: str, query: str) -> Iterator[list[Any]]:
    headers = {"X-ClickHouse-User": user, "X-ClickHouse-Key": password}
    request = urllib.request.Request(f"{url}/", f"{query} FORMAT JSONCompactEachRow".encode(), headers)
    for line in _read(request).splitlines():
        yield json.loads(line)


def stripe_differences(url: str, model: Model) -> Differences:
    """Each hour of each meter and customer, as Stripe's summaries tell it, against what was sent.

    Summaries are floats: what is expected is the float that is nearest to the exact sum.
    """
    expected = {key: float(quantity) for key, quantity in model.stripe.items()}
    hours: dict[Used, list[int]] = {}
    for used, hour in expected:
        hours.setdefault(used, []).append(hour)
    meters = {meter["event_name"]: meter["id"] for meter in _stripe_list(url, "/v1/billing/meters", {})}
    found = {}
    for used, told in hours.items():
        for hour, value in _summaries(url, meters[used.meter], used.account, min(told), max(told)):
            found[used, hour] = value
    differences = different("stripe: summaries", expected, found)
    standing = _get(url, "/_double", {})["rows"]["standing"]
    return differences + different("stripe: windows", {"count": len(expected)}, {"count": standing})


def _summaries(url: str, meter_id: str, customer: str, first_hour: int, last_hour: int) -> Iterator[tuple[int, float]]:
    asked = {
        "customer": customer,
        "start_time": first_hour * _HOUR_S,
        "end_time": (last_hour + 1) * _HOUR_S,
        "value_grouping_window": "hour",
    }
    for summary in _stripe_list(url, f"/v1/billing/meters/{meter_id}/event_summaries", asked):
        yield summary["start_time"] // _HOUR_S, summary["aggregated_value"]


def _stripe_list(url: str, path: str, asked: Mapping[str, object]) -> list[dict[str, Any]]:
    page = _get(url, path, {**asked, "limit": 100})
    assert not page["has_more"], f"{path} has more than a page"
    found: list[dict[str, Any]] = page["data"]
    return found


def _get(url: str, path: str, asked: Mapping[str, object]) -> Any:
    query = urllib.parse.urlencode(asked)
    request = urllib.request.Request(f"{url}{path}?{query}", headers={"Authorization": f"Bearer {_STRIPE_KEY}"})
    return json.loads(_read(request))


def _read(request: urllib.request.Request) -> bytes:
    """The answer's body. Raises OSError, with what was said, where it is none."""
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:
            body: bytes = response.read()
            return body
    except urllib.error.HTTPError as exc:
        with exc:
            said = f"{request.full_url}: {exc.code} {exc.read().decode(errors='replace')}"
        raise OSError(said) from exc

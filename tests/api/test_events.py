"""POST /v1/events against a real broker: what is acknowledged is on the log, and each format means the same."""

from __future__ import annotations

import gzip
import json
from typing import Any

import httpx
import pytest

from billing.records import UsageEvent
from billing.routing import partition_of
from schemas.codec import encode
from tests.api.events import (
    AVRO_TYPE,
    CLOUD_BATCH_TYPE,
    CLOUD_TYPE,
    ago,
    avro_fields,
    cloud,
    container,
    native,
)
from tests.api.process import PARTITIONS, on_topic


def send(client: httpx.Client, content: bytes, kind: str = "application/json", **headers: str) -> httpx.Response:
    return client.post("/v1/events", content=content, headers={"Content-Type": kind, **headers})


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()


def accepted(answer: httpx.Response) -> int:
    assert answer.status_code == 202, answer.text
    assert answer.json()["rejected"] == []
    return int(answer.json()["accepted"])


def test_an_acknowledged_event_is_on_the_topic(client: httpx.Client, broker: str, org: str) -> None:
    assert accepted(send(client, as_json({"events": [native(quantity="1.5", properties={"k": "v"})]}))) == 1
    [(_, event)] = on_topic(broker, org)
    assert (event.event_id, event.quantity, event.properties) == ("e1", "1.5", {"k": "v"})


@pytest.mark.parametrize(
    ("content", "kind", "ids"),
    [
        pytest.param(as_json({"events": [native("a"), native("b")]}), "application/json", ["a", "b"], id="an object"),
        pytest.param(as_json([native("a"), native("b")]), "application/json", ["a", "b"], id="a bare array"),
        pytest.param(as_json(native("a")), "application/json; charset=utf-8", ["a"], id="a single event"),
        pytest.param(b" \n" + as_json([native("a")]), "Application/JSON", ["a"], id="blanks before, any case"),
        pytest.param(as_json(cloud("a")), CLOUD_TYPE, ["2:/sa"], id="a CloudEvent"),
        pytest.param(as_json([cloud("a"), cloud("b")]), CLOUD_BATCH_TYPE, ["2:/sa", "2:/sb"], id="CloudEvents"),
        pytest.param(container([avro_fields("a"), avro_fields("b")]), AVRO_TYPE, ["a", "b"], id="an Avro file"),
        pytest.param(encode(UsageEvent(**avro_fields("a"))), "application/avro", ["a"], id="a single Avro record"),
    ],
)
def test_each_format_arrives(
    client: httpx.Client, broker: str, org: str, content: bytes, kind: str, ids: list[str]
) -> None:
    assert accepted(send(client, content, kind)) == len(ids)
    assert sorted(event.event_id for _, event in on_topic(broker, org)) == ids


def test_cloud_events_come_in_binary_mode_too(client: httpx.Client, broker: str, org: str) -> None:
    headers = {f"ce-{name}": value for name, value in cloud("a%20b").items()}
    assert accepted(send(client, as_json({"quantity": 3}), **headers)) == 1
    [(_, event)] = on_topic(broker, org)
    assert (event.event_id, event.customer_id, event.event_type, event.quantity) == ("2:/sa b", "c1", "llm.call", "3")


def test_an_attribute_of_bytes_that_are_no_text_is_refused(client: httpx.Client, broker: str, org: str) -> None:
    """Read leniently, %FF and %FE were one id, and the second event a duplicate."""
    for event_id in ("%FF", "%FE"):
        headers = {f"ce-{name}": value for name, value in cloud(event_id).items()}
        answer = send(client, as_json({"quantity": 3}), **headers)
        assert (answer.status_code, list(answer.json()["error"]["details"])) == (400, ["ce-id"])
    assert on_topic(broker, org) == []


def test_gzip_is_read(client: httpx.Client, broker: str, org: str) -> None:
    packed = gzip.compress(as_json(native("a"))[:20]) + gzip.compress(as_json(native("a"))[20:])
    answer = send(client, packed, **{"Content-Encoding": "gzip"})
    assert accepted(answer) == 1
    assert len(on_topic(broker, org)) == 1


def test_each_customer_is_on_the_partition_where_the_fold_looks(client: httpx.Client, broker: str, org: str) -> None:
    customers = ["c", "a/b", "Ünïcode", "x" * 200, *(f"customer-{n}" for n in range(50))]
    events = [native(f"e{n}", customer_id=customer) for n, customer in enumerate(customers)]
    assert accepted(send(client, as_json(events))) == len(customers)
    found = on_topic(broker, org)
    assert len(found) == len(customers)
    for partition, event in found:
        assert partition == partition_of(f"{org}/{event.customer_id}".encode(), PARTITIONS)


def test_one_bad_item_never_refuses_the_others(client: httpx.Client, broker: str, org: str) -> None:
    batch: list[Any] = [
        native("a"),
        native("b", quantity="-1"),
        native("c", colour=1),
        5,
        native("d", occurred_at=ago(days=70)),
    ]
    answer = send(client, as_json({"events": [*batch, native("e")]}))
    assert answer.status_code == 202
    body = answer.json()
    assert body["accepted"] == 2
    assert [(item["index"], item["event_id"], item["reason"], item["field"]) for item in body["rejected"]] == [
        (1, "b", "invalid_field", "quantity"),
        (2, "c", "invalid_field", "colour"),
        (3, None, "invalid_field", "event"),
        (4, "d", "too_old", "occurred_at"),
    ]
    assert sorted(event.event_id for _, event in on_topic(broker, org)) == ["a", "e"]


def test_python_s_nan_refuses_only_its_own_event(client: httpx.Client, broker: str, org: str) -> None:
    content = json.dumps([native("a"), native("b", quantity=float("nan")), native("c", quantity=0.1)]).encode()
    answer = send(client, content)
    assert answer.status_code == 202
    [rejected] = answer.json()["rejected"]
    assert (rejected["index"], rejected["event_id"], rejected["field"]) == (1, "b", "quantity")
    assert "NaN" in rejected["message"]
    assert {event.event_id: event.quantity for _, event in on_topic(broker, org)} == {"a": "1", "c": "0.1"}


def test_a_batch_of_which_nothing_is_taken_is_refused_with_its_list(client: httpx.Client) -> None:
    answer = send(client, as_json([native("a", quantity=-1), native("b", feature="")]))
    assert answer.status_code == 400
    body = answer.json()
    assert body["error"]["code"] == "ALL_REJECTED"
    assert body["accepted"] == 0
    assert [item["event_id"] for item in body["rejected"]] == ["a", "b"]
    assert list(body["error"]["details"]) == ["events[0].quantity", "events[1].feature"]


def test_ten_thousand_events_are_one_batch(client: httpx.Client, broker: str, org: str) -> None:
    events = [native(f"e{n}", customer_id=f"c{n % 100}") for n in range(10_000)]
    assert accepted(send(client, as_json(events))) == 10_000
    assert len({event.event_id for _, event in on_topic(broker, org)}) == 10_000


def test_a_repeat_is_taken_again_for_the_fold_to_drop(client: httpx.Client, broker: str, org: str) -> None:
    content = as_json(native("a"))
    assert accepted(send(client, content)) == accepted(send(client, content)) == 1
    assert [event.event_id for _, event in on_topic(broker, org)] == ["a", "a"]

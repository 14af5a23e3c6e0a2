"""What may be wrong with a request: each answer names the place, and the node goes on serving."""

from __future__ import annotations

import gzip
import json
import socket
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from billing.records import UsageEvent
from schemas.codec import encode
from tests.api.conftest import keyed_client
from tests.api.events import AVRO_TYPE, CLOUD_BATCH_TYPE, CLOUD_TYPE, ago, avro_fields, cloud, container, native
from tests.api.process import ApiProcess

MIB = 1024 * 1024
JSON = "application/json"


@pytest.fixture(scope="module")
def client(api: ApiProcess, broker: str) -> Iterator[httpx.Client]:
    """One for the module: nothing here looks at what arrived, and a key costs half a second."""
    made = keyed_client(api, broker, "bad-input", "ingest", "read")
    yield made
    made.close()


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()


def post(client: httpx.Client, content: bytes, kind: str = JSON, **headers: str) -> httpx.Response:
    return client.post("/v1/events", content=content, headers={"Content-Type": kind, **headers})


def number(text: str) -> bytes:
    """An event whose quantity is this JSON text."""
    return as_json(native())[:-1] + f', "quantity": {text}}}'.encode()


ITEMS = [
    pytest.param(as_json(native(colour="red")), "invalid_field", "colour", id="an unknown field"),
    pytest.param(as_json(native(org="other")), "invalid_field", "org", id="an organisation of its own"),
    pytest.param(as_json(native(feature=7)), "invalid_field", "feature", id="a wrong type"),
    pytest.param(as_json(native(tags="a")), "invalid_field", "tags", id="text where a list belongs"),
    pytest.param(as_json(native(quantity="-1")), "invalid_field", "quantity", id="a negative quantity"),
    pytest.param(as_json(native(quantity="NaN")), "invalid_field", "quantity", id="NaN as text"),
    pytest.param(number("NaN"), "invalid_field", "quantity", id="NaN as Python writes it"),
    pytest.param(number("-Infinity"), "invalid_field", "quantity", id="minus infinity"),
    pytest.param(number("1e400"), "invalid_field", "quantity", id="1e400"),
    pytest.param(number("7" * 40), "invalid_field", "quantity", id="a quantity of 40 digits"),
    pytest.param(as_json(native(quantity="7" * 40)), "invalid_field", "quantity", id="40 digits as text"),
    pytest.param(as_json(native(occurred_at="2026-11-21T13:20:00")), "invalid_field", "occurred_at", id="no zone"),
    pytest.param(as_json(native(occurred_at=1_795_000_000)), "invalid_field", "occurred_at", id="an epoch number"),
    pytest.param(as_json(native(occurred_at=ago(days=-1))), "in_future", "occurred_at", id="a day ahead"),
    pytest.param(as_json(native(occurred_at=ago(days=70))), "too_old", "occurred_at", id="70 days old"),
    pytest.param(as_json(native(event_id="x" * 10_240)), "invalid_field", "event_id", id="an id of 10 kB"),
    pytest.param(as_json(native(customer_id="")), "invalid_field", "customer_id", id="an empty customer"),
    pytest.param(as_json(native(customer_id="a\nb")), "invalid_field", "customer_id", id="a line end in a customer"),
    pytest.param(as_json({"event_id": "x"}), "invalid_field", "occurred_at", id="a missing field"),
]


@pytest.mark.parametrize(("item", "reason", "field"), ITEMS)
def test_a_bad_item_is_named_and_its_neighbours_are_taken(
    client: httpx.Client, item: bytes, reason: str, field: str
) -> None:
    good = as_json(native())
    answer = post(client, b'{"events": [' + b",".join((good, item, good)) + b"]}")
    assert answer.status_code == 202, answer.text
    assert answer.json()["accepted"] == 2
    [rejected] = answer.json()["rejected"]
    assert (rejected["index"], rejected["reason"], rejected["field"]) == (1, reason, field)
    assert len(rejected["message"]) < 400


@pytest.mark.parametrize(("item", "reason", "field"), ITEMS)
def test_a_bad_item_alone_is_a_400_that_names_it(client: httpx.Client, item: bytes, reason: str, field: str) -> None:
    answer = post(client, item)
    assert answer.status_code == 400
    [rejected] = answer.json()["rejected"]
    assert (rejected["index"], rejected["reason"], rejected["field"]) == (0, reason, field)
    assert f"events[0].{field}" in answer.json()["error"]["details"]


def test_bytes_that_are_no_utf_8_refuse_only_their_event(client: httpx.Client) -> None:
    good, bad = as_json(native()), as_json(native("bad")).replace(b"bad", b"\xff")
    answer = post(client, b",".join((b"[" + good, bad, good + b"]")))
    assert answer.json()["accepted"] == 2
    [rejected] = answer.json()["rejected"]
    assert (rejected["index"], rejected["reason"]) == (1, "unreadable")
    assert "not UTF-8 at byte" in rejected["message"]


@pytest.mark.parametrize(
    ("item", "field"),
    [
        pytest.param(cloud(time="2026-11-21T13:20:00"), "time", id="a time without zone"),
        pytest.param(cloud(specversion="0.3"), "specversion", id="another version"),
        pytest.param(cloud(quantity=1), "quantity", id="a usage field beside data"),
        pytest.param(cloud(data={"qantity": 1}), "qantity", id="unknown data"),
        pytest.param(cloud(subject=None), "subject", id="no customer"),
        pytest.param(7, "event", id="a number"),
    ],
)
def test_a_bad_cloud_event_is_named_and_its_neighbours_are_taken(client: httpx.Client, item: Any, field: str) -> None:
    answer = post(client, as_json([cloud("a"), item, cloud("b")]), CLOUD_BATCH_TYPE)
    assert answer.status_code == 202, answer.text
    [rejected] = answer.json()["rejected"]
    assert (rejected["index"], rejected["reason"], rejected["field"]) == (1, "invalid_field", field)


def test_a_bad_avro_event_is_named_and_its_neighbours_are_taken(client: httpx.Client) -> None:
    records = [avro_fields("a"), avro_fields("b", quantity="NaN"), avro_fields("c", customer_id="")]
    answer = post(client, container(records), AVRO_TYPE)
    assert answer.status_code == 202
    assert [(item["index"], item["field"]) for item in answer.json()["rejected"]] == [
        (1, "quantity"),
        (2, "customer_id"),
    ]


@pytest.mark.parametrize(
    ("content", "kind", "status", "says"),
    [
        pytest.param(b"", JSON, 400, "ends in the middle, at byte 0", id="an empty body"),
        pytest.param(as_json([native()])[:50], JSON, 400, "in the middle, at byte 50", id="half a JSON document"),
        pytest.param(as_json({"events": [native()]})[:50], JSON, 400, "at byte 50", id="half an object"),
        pytest.param(as_json(cloud())[:50], CLOUD_TYPE, 400, "at byte 50", id="half a CloudEvent"),
        pytest.param(as_json([cloud()])[:50], CLOUD_BATCH_TYPE, 400, "at byte 50", id="half a batch of them"),
        pytest.param(b'[{"event_id": x}]', JSON, 400, "byte 14", id="JSON that says where it is none"),
        pytest.param(b"[" * 200_000, JSON, 400, "nested too deeply", id="200,000 brackets"),
        pytest.param(b'{"events":' * 50_000, JSON, 400, "nested too deeply", id="50,000 objects in each other"),
        pytest.param(b"\xef\xbb\xbf[]", JSON, 400, "byte 0", id="a byte order mark"),
        pytest.param(b"[]", JSON, 400, "empty", id="an empty array"),
        pytest.param(b'{"events": []}', JSON, 400, "empty", id="an object with an empty array"),
        pytest.param(b"[]", CLOUD_BATCH_TYPE, 400, "empty", id="an empty batch of CloudEvents"),
        pytest.param(container([]), AVRO_TYPE, 400, "empty", id="an empty Avro file"),
        pytest.param(b"5", JSON, 400, "neither", id="a number"),
        pytest.param(b"null", JSON, 400, "neither", id="null"),
        pytest.param(b'{"events": {}}', JSON, 400, "not an array", id="events that are no array"),
        pytest.param(b'{"events": [], "org": "x"}', JSON, 400, "'org' stands beside", id="a member beside events"),
        pytest.param(as_json([native()] * 10_001), JSON, 413, "10000 events", id="10,001 events"),
        pytest.param(as_json([cloud()] * 10_001), CLOUD_BATCH_TYPE, 413, "10000 events", id="10,001 CloudEvents"),
        pytest.param(container([avro_fields()] * 10_001), AVRO_TYPE, 413, "10000 events", id="10,001 in Avro"),
        pytest.param(b"[" + b"0," * 5_000_000 + b"0]", JSON, 413, "10000 events", id="five million numbers"),
        pytest.param(b" " * (10 * MIB + 1), JSON, 413, "10485760 bytes", id="a byte more than 10 MiB"),
        pytest.param(b" " * (50 * MIB), JSON, 413, "10485760 bytes", id="50 MiB"),
        pytest.param(b"garbage", AVRO_TYPE, 400, "neither an Avro container", id="garbage for Avro"),
        pytest.param(b"\xc3\x01" + b"\7" * 20, AVRO_TYPE, 400, "fingerprint 0707", id="an unknown fingerprint"),
        pytest.param(encode(UsageEvent("e", 1, "c"))[:-3], AVRO_TYPE, 400, "does not fit", id="half a record"),
        pytest.param(container([avro_fields("a")])[:-20], AVRO_TYPE, 400, "at event", id="half an Avro file"),
        pytest.param(container([avro_fields()], "deflate"), AVRO_TYPE, 400, "'deflate'", id="a packed Avro file"),
        pytest.param(container([1], schema="int"), AVRO_TYPE, 400, "no version of UsageEvent", id="another schema"),
        pytest.param(as_json(native()), "text/plain", 415, "'text/plain'", id="another content type"),
        pytest.param(as_json(native()), "", 415, "application/json", id="no content type"),
    ],
)
def test_a_body_that_is_no_batch_is_refused_whole(
    client: httpx.Client, content: bytes, kind: str, status: int, says: str
) -> None:
    answer = post(client, content, kind)
    assert answer.status_code == status, answer.text[:500]
    body = answer.json()
    assert says in body["error"]["message"]
    assert len(answer.content) < 2_000
    assert body["result"]["status"] == "ERROR"
    assert body["result"]["code"] == body["error"]["code"]
    assert body["correlationId"]


def bomb(size_bytes: int) -> bytes:
    """gzip that unpacks to so many zeros."""
    packer = zlib.compressobj(9, wbits=31)
    step = b"\0" * MIB
    return b"".join((*(packer.compress(step) for _ in range(size_bytes // MIB)), packer.flush()))


@pytest.mark.parametrize(
    ("content", "packing", "status", "says"),
    [
        pytest.param(bomb(1024 * MIB), "gzip", 413, "10485760 bytes (10 MiB) when unpacked", id="a bomb of 1 GiB"),
        pytest.param(gzip.compress(bomb(1024 * MIB)), "gzip", 400, "not", id="a bomb in a bomb is not unpacked twice"),
        pytest.param(gzip.compress(b"") * 1_001, "gzip", 400, "1000 members", id="1,001 empty members"),
        pytest.param(gzip.compress(as_json(native()))[:-9], "gzip", 400, "in the middle", id="half a gzip body"),
        pytest.param(as_json(native()), "gzip", 400, "not gzip", id="plain although it says gzip"),
        pytest.param(as_json(native()), "br", 415, "'br'", id="another packing"),
        pytest.param(as_json(native()), "gzip, gzip", 415, "'gzip, gzip'", id="packed twice"),
    ],
)
def test_packed_bodies_keep_the_limits(
    client: httpx.Client, content: bytes, packing: str, status: int, says: str
) -> None:
    answer = post(client, content, **{"Content-Encoding": packing})
    assert answer.status_code == status, answer.text
    assert says in answer.json()["error"]["message"]


def test_a_body_of_unknown_length_keeps_the_limit(client: httpx.Client) -> None:
    chunks = (b" " * MIB for _ in range(30))
    answer = client.post("/v1/events", content=chunks, headers={"Content-Type": JSON})
    assert answer.status_code == 413


def test_ten_mebibytes_are_taken(client: httpx.Client) -> None:
    body = as_json(native())
    answer = post(client, body + b" " * (10 * MIB - len(body)))
    assert answer.status_code == 202


@pytest.mark.parametrize(
    ("method", "path", "headers", "status", "code"),
    [
        pytest.param("GET", "/v1/nothing", {}, 404, "NOT_FOUND", id="an unknown route"),
        pytest.param("GET", "/", {}, 404, "NOT_FOUND", id="the root"),
        pytest.param("POST", "/v1/events/", {}, 404, "NOT_FOUND", id="a slash too many is no redirect"),
        pytest.param("GET", "/v1/events", {}, 405, "METHOD_NOT_ALLOWED", id="another method"),
        pytest.param("DELETE", "/v1/health", {}, 405, "METHOD_NOT_ALLOWED", id="health cannot be deleted"),
        pytest.param("GET", "/v1/health", {"Accept": "text/html"}, 406, "NOT_ACCEPTABLE", id="a caller of HTML"),
        pytest.param("POST", "/v1/events", {"Accept": "image/*"}, 406, "NOT_ACCEPTABLE", id="a caller of images"),
        pytest.param(
            "GET", "/v1/health", {"Accept": "application/json;q=0"}, 406, "NOT_ACCEPTABLE", id="JSON of quality zero"
        ),
    ],
)
def test_what_is_no_request_is_answered_in_the_envelope(
    api: ApiProcess, method: str, path: str, headers: dict[str, str], status: int, code: str
) -> None:
    answer = httpx.request(method, f"{api.url}{path}", headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/json"
    if status == 405:
        assert answer.headers["allow"]


@pytest.mark.parametrize(
    "accept",
    ["*/*", "application/json", "text/html, */*;q=0.1", "application/*", "application/vnd.usagetap.v1+json", ""],
)
def test_whoever_takes_json_is_answered(api: ApiProcess, accept: str) -> None:
    assert httpx.get(f"{api.url}/v1/openapi.json", headers={"Accept": accept}).status_code == 200


def test_the_caller_s_correlation_id_comes_back(client: httpx.Client) -> None:
    answer = client.get("/v1/nothing", headers={"x-usage-correlation-id": "corr_7"})
    assert answer.json()["correlationId"] == answer.headers["x-usage-correlation-id"] == "corr_7"


def test_an_unusable_correlation_id_is_replaced(client: httpx.Client) -> None:
    answer = client.get("/v1/nothing", headers={"x-usage-correlation-id": "x" * 200})
    assert answer.json()["correlationId"].startswith("corr_")


def test_a_caller_that_waits_for_leave_is_told_the_limit_before_it_sends(api: ApiProcess, client: httpx.Client) -> None:
    head = (
        f"POST /v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: {client.headers['Authorization']}\r\n"
        f"Content-Type: {JSON}\r\nContent-Length: {50 * MIB}\r\nExpect: 100-continue\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", api.port), 30) as connection:
        connection.sendall(head.encode())
        assert connection.recv(1_000).startswith(b"HTTP/1.1 413 ")


def test_a_caller_that_hangs_up_is_no_fault_of_ours(api: ApiProcess, client: httpx.Client) -> None:
    head = (
        f"POST /v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: {client.headers['Authorization']}\r\n"
        f"Content-Type: {JSON}\r\nContent-Length: 1000\r\n\r\n[half"
    )
    with socket.create_connection(("127.0.0.1", api.port), 30) as connection:
        connection.sendall(head.encode())
    assert post(client, as_json(native())).status_code == 202


def test_none_of_it_was_a_surprise_or_wrote_down_a_key(api: ApiProcess) -> None:
    """Stands last: it looks at what all of the above left behind."""
    assert "api.request_failed" not in api.log
    assert "Traceback" not in api.log
    assert "mk_" not in api.log


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="peak memory is read from /proc, which this system lacks"
)
def test_none_of_it_took_much_memory(api: ApiProcess) -> None:
    """A node is 100 MiB; ten million bytes of numbers, brackets or zeros must not become gigabytes."""
    assert api.process is not None
    status = Path(f"/proc/{api.process.pid}/status").read_text()
    peak_kib = int(status.split("VmHWM:")[1].split()[0])
    assert peak_kib < 512 * 1024

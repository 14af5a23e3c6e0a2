"""GET /v1/openapi.json: complete, and true of what the server does."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, get_type_hints

import httpx
import msgspec
import pytest

from api.health import Health, Progress, ShownCheck
from api.judging import Rejected
from api.openapi import DOCUMENT
from api.usage import MeterUsage, Usage
from schemas.wire import CloudData, CloudEvent, NativeEvent
from tests.api.events import ago
from tests.api.process import ApiProcess

SCHEMAS = DOCUMENT["components"]["schemas"]
OPERATIONS = [(path, method, about) for path, methods in DOCUMENT["paths"].items() for method, about in methods.items()]
BODIES = DOCUMENT["paths"]["/v1/events"]["post"]["requestBody"]["content"]


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for child in value.values():
            yield from nodes(child)
    elif isinstance(value, list):
        for child in value:
            yield from nodes(child)


def fits(value: Any, schema: dict[str, Any]) -> bool:
    """Whether a value is what the schema says: the part of JSON Schema that the document uses."""
    if "$ref" in schema:
        return fits(value, SCHEMAS[schema["$ref"].removeprefix("#/components/schemas/")])
    for key, joined in (("oneOf", sum), ("anyOf", max)):
        if key in schema:
            return joined(fits(value, each) for each in schema[key]) == 1
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    return any(_is_kind(value, kind) for kind in kinds) and _within(value, schema)


def _is_kind(value: Any, kind: str) -> bool:
    types: dict[str, Any] = {
        "string": str,
        "integer": int,
        "number": (int, float),
        "boolean": bool,
        "array": list,
        "object": dict,
        "null": type(None),
    }
    return isinstance(value, types[kind]) and (kind == "boolean" or not isinstance(value, bool))


def _within(value: Any, schema: dict[str, Any]) -> bool:
    if value is None:
        return True
    if "enum" in schema and value not in schema["enum"]:
        return False
    if "const" in schema and value != schema["const"]:
        return False
    if "pattern" in schema and not re.search(schema["pattern"], value):
        return False
    if isinstance(value, list):
        return all(fits(item, schema["items"]) for item in value)
    if isinstance(value, dict) and "properties" in schema:
        unknown = set(value) - set(schema["properties"])
        return (
            set(schema["required"]) <= set(value)
            and (not unknown or schema.get("additionalProperties", True) is not False)
            and all(fits(item, schema["properties"][name]) for name, item in value.items() if name not in unknown)
        )
    return True


def test_the_server_gives_the_document(api: ApiProcess) -> None:
    answer = httpx.get(f"{api.url}/v1/openapi.json")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert answer.json() == json.loads(json.dumps(DOCUMENT))


def test_every_reference_leads_somewhere_and_every_schema_is_used() -> None:
    used = {node["$ref"].removeprefix("#/components/schemas/") for node in nodes(DOCUMENT) if "$ref" in node}
    assert used == set(SCHEMAS)


@pytest.mark.parametrize(
    ("name", "struct"),
    [
        ("NativeEvent", NativeEvent),
        ("CloudEventData", CloudData),
        ("Rejected", Rejected),
        ("Usage", Usage),
        ("MeterUsage", MeterUsage),
        ("Health", Health),
        ("Progress", Progress),
        ("HealthCheck", ShownCheck),
    ],
)
def test_a_schema_has_the_fields_of_what_is_read_or_written(name: str, struct: type[msgspec.Struct]) -> None:
    fields = msgspec.structs.fields(struct)
    assert list(SCHEMAS[name]["properties"]) == [field.encode_name for field in fields]
    assert SCHEMAS[name]["required"] == [field.encode_name for field in fields if field.required]
    assert get_type_hints(struct)


def test_the_cloud_event_has_the_attributes_that_are_read() -> None:
    fields = [field.name for field in msgspec.structs.fields(CloudEvent) if field.default is not msgspec.UNSET]
    assert list(SCHEMAS["CloudEvent"]["properties"]) == fields


@pytest.mark.parametrize(("path", "method", "about"), OPERATIONS)
def test_every_answer_says_what_it_holds(path: str, method: str, about: dict[str, Any]) -> None:
    assert about["operationId"]
    assert about["summary"]
    for status, answer in about["responses"].items():
        assert answer["description"], (path, method, status)
        assert "schema" in answer["content"]["application/json"]


def test_every_example_of_an_answer_fits_its_schema() -> None:
    checked = 0
    for _, _, about in OPERATIONS:
        for answer in about["responses"].values():
            content = answer["content"]["application/json"]
            for example in content.get("examples", {}).values():
                assert fits(example["value"], content["schema"]), example
                checked += 1
    assert checked >= 3


@pytest.mark.parametrize(
    ("kind", "example"),
    [(kind, example["value"]) for kind, about in BODIES.items() for example in about.get("examples", {}).values()],
)
def test_every_example_of_a_body_fits_and_is_taken(client: httpx.Client, kind: str, example: Any) -> None:
    assert fits(example, BODIES[kind]["schema"])
    text = json.dumps(example).replace("2026-11-21T13:20:00.123456Z", ago())
    answer = client.post("/v1/events", content=text, headers={"Content-Type": kind})
    assert answer.status_code == 202, answer.text
    assert answer.json()["rejected"] == []
    assert fits(answer.json(), SCHEMAS["Accepted"])


def test_what_the_server_answers_fits_the_document(client: httpx.Client, api: ApiProcess) -> None:
    def operation(path: str, method: str, status: int) -> dict[str, Any]:
        found = DOCUMENT["paths"][path][method]["responses"][str(status)]
        schema: dict[str, Any] = found["content"]["application/json"]["schema"]
        return schema

    usage_path = "/v1/customers/{customer_id}/usage"
    answers = [
        ("/v1/events", "post", client.post("/v1/events", json={"events": [5, {"event_id": "x"}]})),
        ("/v1/events", "post", client.post("/v1/events", json=[])),
        ("/v1/events", "post", client.post("/v1/events", content=b"x")),
        ("/v1/events", "post", client.post("/v1/events", json=[1] * 10_001)),
        ("/v1/events", "post", client.post("/v1/events", json=[], headers={"Accept": "text/html"})),
        ("/v1/events", "post", httpx.post(f"{api.url}/v1/events")),
        (usage_path, "get", client.get("/v1/customers/c/usage")),
        (usage_path, "get", client.get("/v1/customers/c/usage?from=x")),
        (usage_path, "get", httpx.get(f"{api.url}/v1/customers/c/usage")),
        ("/v1/health", "get", client.get("/v1/health")),
    ]
    for path, method, answer in answers:
        assert fits(answer.json(), operation(path, method, answer.status_code)), (path, answer.status_code, answer.text)
    assert {answer.status_code for _, _, answer in answers} >= {200, 400, 401, 406, 413, 415}


def test_the_fit_of_a_schema_is_really_looked_at() -> None:
    good = {"meter": "calls", "quantity": "1", "event_count": 1}
    assert fits(good, SCHEMAS["MeterUsage"])
    bads: list[Any] = [
        {**good, "x": 1},
        {**good, "quantity": "1e3"},
        {**good, "event_count": "1"},
        {"meter": "calls"},
        [],
    ]
    for bad in bads:
        assert not fits(bad, SCHEMAS["MeterUsage"]), bad

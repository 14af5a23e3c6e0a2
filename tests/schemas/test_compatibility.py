"""A changed schema stays readable by and from its earlier versions: a worker may be older than what it reads, or newer."""

from __future__ import annotations

import io
import json
from itertools import combinations
from typing import Any

import fastavro
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.codec import schema_files

FILES = schema_files()


def values_of(schema: Any, named: dict[str, Any]) -> st.SearchStrategy[Any]:
    """What a schema may hold."""
    match schema:
        case list():
            return st.one_of([values_of(branch, named) for branch in schema])
        case {"type": "record", "name": name, "fields": fields}:
            named[name] = schema
            return st.fixed_dictionaries({field["name"]: values_of(field["type"], named) for field in fields})
        case {"type": "array", "items": items}:
            return st.lists(values_of(items, named), max_size=2)
        case {"type": "map", "values": values}:
            return st.dictionaries(st.text(max_size=5), values_of(values, named), max_size=2)
        case {"type": kind}:
            return values_of(kind, named)
        case "null":
            return st.none()
        case "string":
            return st.text(max_size=5)
        case "bytes":
            return st.binary(max_size=5)
        case "int":
            return st.integers(min_value=-(2**31), max_value=2**31 - 1)
        case "long":
            return st.integers(min_value=-(2**63), max_value=2**63 - 1)
        case str() if schema in named:
            return values_of(named[schema], named)
    message = f"no values are known for {schema}: add them here with the first schema that uses it"
    raise AssertionError(message)


def check_readable(written: str, read: str) -> None:
    """That what is written by one version is read by another, and that fields of both keep their values."""
    writer, reader = json.loads(written), json.loads(read)
    parsed_writer, parsed_reader = fastavro.parse_schema(writer), fastavro.parse_schema(reader)
    shared = {field["name"] for field in writer["fields"]} & {field["name"] for field in reader["fields"]}

    @given(values_of(writer, {}))
    def holds(value: dict[str, Any]) -> None:
        out = io.BytesIO()
        fastavro.schemaless_writer(out, parsed_writer, value)
        out.seek(0)
        found = fastavro.schemaless_reader(out, parsed_writer, parsed_reader)
        assert isinstance(found, dict)
        assert {name: found[name] for name in shared} == {name: value[name] for name in shared}

    holds()


def check_compatible(versions: dict[int, str]) -> None:
    """Every pair of versions, both ways."""
    for older, newer in combinations(versions.values(), 2):
        check_readable(older, newer)
        check_readable(newer, older)


@pytest.mark.parametrize("name", FILES)
def test_every_version_is_readable_by_every_other(name: str) -> None:
    check_compatible(FILES[name])


@pytest.mark.parametrize("name", FILES)
def test_every_version_is_readable_by_itself(name: str) -> None:
    for text in FILES[name].values():
        check_readable(text, text)


@pytest.mark.parametrize("name", FILES)
def test_the_file_names_its_record(name: str) -> None:
    for text in FILES[name].values():
        schema = json.loads(text)
        assert schema["namespace"] == "meterlog"
        assert schema["name"] == "".join(word.capitalize() for word in name.split("_"))
        assert schema["doc"]


FIELDS: list[dict[str, Any]] = [{"name": "id", "type": "string"}, {"name": "count", "type": "long", "default": 0}]


def versions_of(*fields: list[dict[str, Any]]) -> dict[int, str]:
    return {
        number: json.dumps({"type": "record", "name": "Sample", "fields": version})
        for number, version in enumerate(fields, 1)
    }


GOOD = {
    "a field with a default is added": [*FIELDS, {"name": "more", "type": ["null", "string"], "default": None}],
    "a field with a default goes": FIELDS[:1],
    "fields change places": FIELDS[::-1],
    "a doc is added": [{**FIELDS[0], "doc": "An id."}, FIELDS[1]],
}
BAD = {
    "a field without a default is added": [*FIELDS, {"name": "more", "type": "string"}],
    "a field without a default goes": FIELDS[1:],
    "a field is renamed": [{"name": "key", "type": "string"}, FIELDS[1]],
    "a text becomes a number": [{"name": "id", "type": "long"}, FIELDS[1]],
    "a number becomes narrower": [FIELDS[0], {"name": "count", "type": "int", "default": 0}],
    "a field may now be missing": [{"name": "id", "type": ["null", "string"]}, FIELDS[1]],
}


@pytest.mark.parametrize("change", GOOD)
def test_the_check_lets_a_compatible_change_pass(change: str) -> None:
    check_compatible(versions_of(FIELDS, GOOD[change]))


@pytest.mark.parametrize("change", BAD)
def test_the_check_catches_that(change: str) -> None:
    with pytest.raises((AssertionError, fastavro.read.SchemaResolutionError, TypeError, ValueError, OverflowError)):
        check_compatible(versions_of(FIELDS, BAD[change]))

"""Account names: the record's key, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.accounts.types import AccountName, check_org, parse_account
from billing.errors import InvalidField


@pytest.mark.parametrize(
    ("key", "name"),
    [
        pytest.param(b"acme/alice", AccountName("acme", "alice"), id="org, slash, customer"),
        pytest.param(b"acme/a/b", AccountName("acme", "a/b"), id="the first slash splits"),
        pytest.param("acme/\u00e9l\u00e8ve".encode(), AccountName("acme", "\u00e9l\u00e8ve"), id="UTF-8"),
        pytest.param(b"a" * 63 + b"/" + b"c" * 256, AccountName("a" * 63, "c" * 256), id="the longest there is"),
    ],
)
def test_a_key_names_an_account(key: bytes, name: AccountName) -> None:
    assert parse_account(key) == name
    assert str(name).encode() == key


@pytest.mark.parametrize(
    ("key", "field"),
    [
        pytest.param(None, "key", id="no key"),
        pytest.param(b"", "key", id="an empty key"),
        pytest.param(b"acme", "key", id="no slash"),
        pytest.param(b"acme/", "key", id="no customer"),
        pytest.param(b"/alice", "org", id="no org"),
        pytest.param(b"Acme/alice", "org", id="upper case in the org"),
        pytest.param("acm\u00e9/alice".encode(), "org", id="an accent in the org"),
        pytest.param(b"acme\n/alice", "org", id="a line feed in the org"),
        pytest.param(b"a" * 64 + b"/alice", "org", id="an org of 64"),
        pytest.param(b"acme/\xff", "key", id="not UTF-8"),
        pytest.param(b"acme/\xed\xa0\x80", "key", id="a surrogate in UTF-8"),
        pytest.param(b"acme/" + b"c" * 1_000_000, "key", id="a key of a megabyte"),
        pytest.param(b"a" * 63 + b"/" + b"c" * 257, "key", id="a byte too long"),
    ],
)
def test_anything_else_is_refused_by_name(key: bytes | None, field: str) -> None:
    with pytest.raises(InvalidField) as refused:
        parse_account(key)
    assert refused.value.field == field
    assert refused.value.message.isascii(), "messages are facts: no Unicode table decides how they read"
    assert len(refused.value.message) < 300


@given(st.from_regex(r"[a-z0-9-]{1,63}", fullmatch=True))
def test_orgs_are_taken_as_they_are(org: str) -> None:
    assert check_org(org) == org


@given(st.binary(max_size=400))
def test_bytes_are_a_name_or_refused(key: bytes) -> None:
    try:
        name = parse_account(key)
    except InvalidField:
        return
    assert str(name).encode() == key

"""API keys: who may do what, and that a revoked key is worthless within seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from api.errors import KeysError
from api.key_ring import KEY_PREFIX, KeyFollower, KeyRing, digest_of
from api.keys import create_key, list_keys, revoke_key
from schemas.codec import ApiKey, encode
from tests.api.events import native
from tests.api.process import ApiProcess
from tests.waiting import wait_until

NOW_MS = 1_795_267_200_000
Clients = Callable[..., httpx.Client]


def test_a_key_holds_256_random_bits_and_is_stored_as_a_digest(broker: str, org: str) -> None:
    made = create_key(broker, org, ["ingest", "read", "read"], NOW_MS)
    assert made["key"].startswith("mk_")
    assert len(made["key"]) == len("mk_") + 43  # 32 bytes in base64
    assert (made["org"], made["scopes"], made["created_at"]) == (org, ["ingest", "read"], "2026-11-21T13:20:00.000Z")
    [listed] = list_keys(broker, org)
    assert listed == {name: value for name, value in made.items() if name != "key"}
    assert made["key"] not in str(list_keys(broker))


@pytest.mark.parametrize(
    ("org", "scopes", "says"),
    [
        pytest.param("Acme", ["read"], "--org", id="an organisation that is none"),
        pytest.param("acme", [], "--scopes: none", id="no scope"),
        pytest.param("acme", ["read", "write"], "'write' unknown", id="an unknown scope"),
        pytest.param("acme", [""], "'' unknown", id="an empty scope"),
    ],
)
def test_a_key_that_means_nothing_is_refused(broker: str, org: str, scopes: list[str], says: str) -> None:
    with pytest.raises(KeysError, match=says):
        create_key(broker, org, scopes, NOW_MS)


def test_an_unknown_key_cannot_be_revoked(broker: str) -> None:
    with pytest.raises(KeysError, match="keys list"):
        revoke_key(broker, "key_none", NOW_MS)


def test_revoking_again_changes_nothing(broker: str, org: str) -> None:
    key_id = create_key(broker, org, ["read"], NOW_MS)["key_id"]
    revoked = revoke_key(broker, key_id, NOW_MS + 1_000)
    assert revoked["revoked_at"] == "2026-11-21T13:20:01.000Z"
    assert revoke_key(broker, key_id, NOW_MS + 2_000) == revoked
    assert list_keys(broker, org) == [revoked]


def test_a_revoked_key_is_worthless_within_seconds(api: ApiProcess, broker: str, org: str, new_client: Clients) -> None:
    client = new_client(org, "ingest")
    assert client.post("/v1/events", json=native()).status_code == 202
    [key] = list_keys(broker, org)
    revoke_key(broker, key["key_id"], NOW_MS)
    began_s = time.monotonic()
    wait_until(lambda: client.post("/v1/events", json=native()).status_code == 401, "the key is refused", 5)
    assert time.monotonic() - began_s < 5


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({}, id="no key"),
        pytest.param({"Authorization": "Bearer mk_unknown"}, id="an unknown key"),
        pytest.param({"Authorization": "Bearer"}, id="an empty key"),
        pytest.param({"Authorization": "Basic dXNlcjpwdw=="}, id="another scheme"),
        pytest.param({"x-api-key": "mk_unknown"}, id="an unknown key in the other header"),
    ],
)
def test_without_a_valid_key_the_answer_is_401(api: ApiProcess, headers: dict[str, str]) -> None:
    for method, path in (("POST", "/v1/events"), ("GET", "/v1/customers/c/usage")):
        answer = httpx.request(method, f"{api.url}{path}", headers=headers)
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "UNAUTHORIZED"
        assert answer.headers["www-authenticate"].startswith("Bearer")


def test_a_key_does_what_its_scopes_say(new_client: Clients, org: str) -> None:
    reader, writer = new_client(org, "read"), new_client(org, "ingest")
    refused = reader.post("/v1/events", json=native())
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "FORBIDDEN")
    assert "'ingest'" in refused.json()["error"]["message"]
    assert writer.get("/v1/customers/c/usage").status_code == 403


def test_both_headers_carry_a_key_and_authorization_goes_first(api: ApiProcess, new_client: Clients, org: str) -> None:
    key = new_client(org, "ingest").headers["Authorization"].removeprefix("Bearer ")
    with httpx.Client(base_url=api.url) as client:
        assert client.post("/v1/events", json=native(), headers={"x-api-key": key}).status_code == 202
        both = {"x-api-key": key, "Authorization": "Bearer mk_unknown"}
        assert client.post("/v1/events", json=native(), headers=both).status_code == 401


def test_a_node_knows_the_keys_that_were_made_before_it(
    tmp_path: Path, broker: str, org: str, clickhouse_settings: dict[str, str]
) -> None:
    token = create_key(broker, org, ["ingest"], NOW_MS)["key"]
    with ApiProcess(tmp_path, bootstrap_servers=broker, **clickhouse_settings) as node:
        node.wait_for_keys()
        answer = httpx.post(f"{node.url}/v1/events", json=native(), headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == 202


def ring_with(key: ApiKey) -> KeyRing:
    ring = KeyRing()
    ring.apply(f"{KEY_PREFIX}{key.key_id}".encode(), encode(key), 0)
    return ring


KEY = ApiKey("key_1", digest_of("mk_1"), "acme", ("read",), NOW_MS)


def test_the_ring_finds_a_key_by_its_whole_text_only() -> None:
    ring = ring_with(KEY)
    assert ring.find("mk_1") == KEY
    assert ring.find("mk_") is None
    assert ring.find("mk_1 ") is None


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(encode(ApiKey("key_1", digest_of("mk_1"), "acme", ("read",), NOW_MS, NOW_MS)), id="a revocation"),
        pytest.param(None, id="a tombstone"),
        pytest.param(b"garbage", id="a record that cannot be read: it may have been the revocation"),
    ],
)
def test_the_ring_drops_a_key_on(value: bytes | None) -> None:
    ring = ring_with(KEY)
    ring.apply(b"api_key/key_1", value, 1)
    assert ring.find("mk_1") is None
    assert len(ring) == 0


def test_the_ring_passes_over_other_records() -> None:
    ring = ring_with(KEY)
    ring.apply(b"catalog/1", b"anything", 1)
    ring.apply(None, None, 2)
    assert ring.find("mk_1") == KEY


def test_a_key_whose_digest_changed_is_found_by_the_new_one() -> None:
    ring = ring_with(KEY)
    changed = ApiKey("key_1", digest_of("mk_2"), "acme", ("read",), NOW_MS)
    ring.apply(b"api_key/key_1", encode(changed), 1)
    assert (ring.find("mk_1"), ring.find("mk_2")) == (None, changed)


def test_a_follower_that_cannot_go_on_says_so(broker: str, org: str) -> None:
    """Else a key that is revoked from then on would stay valid."""

    class Broken(KeyRing):
        def apply(self, record_key: bytes | None, value: bytes | None, offset: int) -> None:
            raise RuntimeError("broken")

    create_key(broker, org, ["read"], NOW_MS)
    reasons: list[str] = []
    follower = KeyFollower(broker, Broken(), reasons.append)
    follower.start()
    wait_until(lambda: reasons, "the process is told to end")
    follower.stop()
    assert "RuntimeError" in reasons[0]

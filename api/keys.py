"""Makes, lists and revokes API keys: what the commands `meterlog keys …` do."""

import secrets
import time
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from confluent_kafka import KafkaError, KafkaException, Producer

from api.errors import KeysError
from api.key_ring import KEY_PREFIX, control_reader, digest_of
from billing.accounts.types import check_org
from billing.errors import InvalidField
from schemas.codec import ApiKey, decode, encode
from schemas.timestamps import timestamp
from schemas.topics import CONTROL

__all__ = ["SCOPES", "create_key", "list_keys", "revoke_key"]

SCOPES: Final = ("ingest", "gate", "read", "finance", "admin")
_TOKEN_PREFIX: Final = "mk_"
_SECRET_BYTES: Final = 32
_TIMEOUT_S: Final = 15.0
_BATCH_RECORDS: Final = 1_000
_FETCH_WAIT_MS: Final = 10
_BATCH_WAIT_S: Final = 0.1  # the library hands over fewer records only when this has passed


def create_key(bootstrap_servers: str, org: str, scopes: Sequence[str], now_ms: int) -> dict[str, Any]:
    """A new key of `org`, with `key` in it: the only time that it is shown. Raises KeysError."""
    try:
        check_org(org)
    except InvalidField as exc:
        msg = f"--org: {exc.message}"
        raise KeysError(msg) from exc
    _check_scopes(scopes)
    token = _TOKEN_PREFIX + secrets.token_urlsafe(_SECRET_BYTES)
    key = ApiKey(f"key_{secrets.token_hex(8)}", digest_of(token), org, tuple(dict.fromkeys(scopes)), now_ms)
    _write(bootstrap_servers, key)
    return {"key": token, **_shown(key)}


def list_keys(bootstrap_servers: str, org: str | None = None) -> list[dict[str, Any]]:
    """All keys, revoked ones too, oldest first; of one organisation where `org` is given. Raises KeysError."""
    found = _read(bootstrap_servers).values()
    return [_shown(key) for key in sorted(found, key=_age) if org in (None, key.org)]


def revoke_key(bootstrap_servers: str, key_id: str, now_ms: int) -> dict[str, Any]:
    """The key, not valid any more. Revoking one again changes nothing. Raises KeysError for an unknown id."""
    key = _read(bootstrap_servers).get(key_id)
    if key is None:
        msg = f"there is no key {key_id!r}; see: meterlog keys list"
        raise KeysError(msg)
    if key.revoked_at_ms is None:
        key = msgspec.structs.replace(key, revoked_at_ms=now_ms)
        _write(bootstrap_servers, key)
    return _shown(key)


def _check_scopes(scopes: Sequence[str]) -> None:
    unknown = [scope for scope in scopes if scope not in SCOPES]
    if unknown or not scopes:
        what = f"{', '.join(map(repr, unknown))} unknown" if unknown else "none given"
        msg = f"--scopes: {what}; name some of {', '.join(SCOPES)}, separated by commas"
        raise KeysError(msg)


def _age(key: ApiKey) -> tuple[int, str]:
    return key.created_at_ms, key.key_id


def _shown(key: ApiKey) -> dict[str, Any]:
    """A key as commands print it; the digest is of no use to a person."""
    revoked = None if key.revoked_at_ms is None else timestamp(key.revoked_at_ms)
    return {
        "key_id": key.key_id,
        "org": key.org,
        "scopes": list(key.scopes),
        "created_at": timestamp(key.created_at_ms),
        "revoked_at": revoked,
    }


def _write(bootstrap_servers: str, key: ApiKey) -> None:
    """Append the key's record and wait until Kafka has it."""
    failures: list[str] = []
    producer = Producer(
        {
            "bootstrap.servers": bootstrap_servers,
            # A record that the library sends twice says the same twice; an idempotent producer takes 0.5 s to begin.
            "acks": "all",
            "message.timeout.ms": int(_TIMEOUT_S * 1_000),
            "linger.ms": 0,
            "log_level": 0,
        }
    )
    record_key = f"{KEY_PREFIX}{key.key_id}".encode()
    producer.produce(
        CONTROL, encode(key), record_key, 0, lambda error, _: failures.append(error.str()) if error else None
    )
    left = producer.flush(_TIMEOUT_S + 1)
    if left or failures:
        msg = f"Kafka at {bootstrap_servers} did not take the key: {failures[0] if failures else 'no answer'}"
        raise KeysError(msg)


def _read(bootstrap_servers: str) -> dict[str, ApiKey]:
    """Every key on `control` by id, as its last record has it."""
    found: dict[str, ApiKey] = {}
    consumer = control_reader(bootstrap_servers, fetch_wait_ms=_FETCH_WAIT_MS)
    deadline_s = time.monotonic() + _TIMEOUT_S
    try:
        while time.monotonic() < deadline_s:
            for message in consumer.consume(_BATCH_RECORDS, _BATCH_WAIT_S):
                error = message.error()
                if error is not None and error.code() == KafkaError._PARTITION_EOF:
                    return found
                if error is not None:
                    raise KafkaException(error)
                record = decode(message.value())
                if isinstance(record, ApiKey):
                    found[record.key_id] = record
    except KafkaException as exc:
        msg = f"Kafka at {bootstrap_servers}: {exc.args[0].str()}"
        raise KeysError(msg) from exc
    finally:
        consumer.close()
    msg = f"Kafka at {bootstrap_servers} does not answer; does it run?"
    raise KeysError(msg)

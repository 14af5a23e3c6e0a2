"""The API keys that are valid now: read from `control`, followed as they change, found by digest."""

import hashlib
import hmac
import logging
import threading
from collections.abc import Callable

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Message, TopicPartition

from api.say import say
from observe.api import ApiEvent
from schemas.codec import ApiKey, decode
from schemas.topics import CONTROL

__all__ = ["KEY_PREFIX", "KeyFollower", "KeyRing", "control_reader", "digest_of"]

KEY_PREFIX = "api_key/"
"""On `control`, what the keys of API key records begin with; the key's id follows."""
_BATCH_RECORDS = 500
_FETCH_WAIT_MS = 500
_WAIT_S = 0.25  # how long a stop waits for the thread; records themselves are handed over at once


def digest_of(token: str) -> bytes:
    """What is kept of a key: SHA-256. Keys hold 256 random bits, so a slow hash would protect nothing."""
    return hashlib.sha256(token.encode()).digest()


class KeyRing:
    """Valid keys by digest. Written by the thread that follows `control`, read by the one that serves."""

    def __init__(self) -> None:
        self._by_digest: dict[bytes, ApiKey] = {}
        self._digests: dict[str, bytes] = {}
        self.loaded = threading.Event()
        """Set once `control` was read to its end; before, an unknown key may merely not be read yet."""
        self.next_offset = 0
        """Everything of `control` before it is known here."""

    def __len__(self) -> int:
        return len(self._by_digest)

    def find(self, token: str) -> ApiKey | None:
        """The valid key that `token` is, or None.

        The lookup is by a digest that the caller cannot choose, so its time tells nothing about other keys.
        """
        digest = digest_of(token)
        key = self._by_digest.get(digest)
        return key if key is not None and hmac.compare_digest(key.digest, digest) else None

    def apply(self, record_key: bytes | None, value: bytes | None, offset: int) -> None:
        """Take over a record of `control`; those of other kinds are passed over.

        A record that cannot be read makes its key invalid: it may have been the revocation.
        """
        name = (record_key or b"").decode(errors="replace")
        if not name.startswith(KEY_PREFIX):
            return
        record = decode(value) if value is not None else None
        if record is not None and not isinstance(record, ApiKey):
            say(ApiEvent.KEY_UNREADABLE, level=logging.ERROR, record_key=name, offset=offset)
        key = record if isinstance(record, ApiKey) and record.revoked_at_ms is None else None
        self._replace(name, key)

    def _replace(self, name: str, key: ApiKey | None) -> None:
        old = self._digests.pop(name, None)
        if old is not None:
            del self._by_digest[old]
        if key is not None:
            self._digests[name] = key.digest
            self._by_digest[key.digest] = key


class KeyFollower:
    """The thread that reads `control` from its beginning, for as long as the process lives."""

    def __init__(self, bootstrap_servers: str, ring: KeyRing, on_fatal: Callable[[str], None]) -> None:
        self._bootstrap_servers = bootstrap_servers
        self._ring = ring
        self._on_fatal = on_fatal
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="api-keys", daemon=True)

    def start(self) -> None:
        """Begin to read. `ring.loaded` tells when the end was reached."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread and wait for it."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._follow()
        except Exception as exc:  # noqa: BLE001 - without this thread a revoked key would stay valid: the process ends
            self._on_fatal(f"the API keys cannot be followed: {type(exc).__name__}: {exc}")

    def _follow(self) -> None:
        consumer = control_reader(self._bootstrap_servers, fetch_wait_ms=_FETCH_WAIT_MS)
        try:
            while not self._stop.is_set():
                for message in consumer.consume(_BATCH_RECORDS, _WAIT_S):
                    self._take(message)
        finally:
            consumer.close()

    def _take(self, message: Message) -> None:
        error = message.error()
        if error is None:
            self._ring.apply(message.key(), message.value(), message.offset())
            self._ring.next_offset = message.offset() + 1
            return
        if error.code() != KafkaError._PARTITION_EOF:
            say(ApiEvent.KAFKA_COMPLAINED, level=logging.ERROR, reason=error.str())
            return
        self._ring.next_offset = message.offset()
        if not self._ring.loaded.is_set():
            self._ring.loaded.set()
            say(ApiEvent.KEYS_LOADED, key_count=len(self._ring))


def control_reader(bootstrap_servers: str, *, fetch_wait_ms: int) -> Consumer:
    """A consumer at the beginning of `control` that says when it has reached the end. It is in no group.

    `fetch_wait_ms`: how long a broker that has no more holds a request, and so how late the end is known.
    """
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap_servers,
            "group.id": "meterlog-control-reader",  # the library wants one; nothing is committed under it
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            "fetch.wait.max.ms": fetch_wait_ms,
            "reconnect.backoff.max.ms": 1_000,
            "log_level": 0,
        }
    )
    consumer.assign([TopicPartition(CONTROL, 0, OFFSET_BEGINNING)])
    return consumer

"""The double's state in one SQLite file: meters, customers, the values that stand, identifiers and kept answers.

Each accepted event is one transaction. Write-ahead log without a sync per commit: it outlives the process however that
ends, which is what the sink's kill tests ask of it; a power cut may cost its last moments, which real Stripe would not.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from runtime.embedded.stripe_rules import IDENTIFIER_WINDOW_MS, Event, Meter

__all__ = ["BUILTIN_EVENT_NAMES", "KeptAnswer", "Store", "Value"]

BUILTIN_EVENT_NAMES = ("calls", "tokens", "searches", "images", "audio_seconds")
"""The meters that the built-in catalog reports; they exist from the start, with hourly windows."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meters (
    id TEXT PRIMARY KEY, event_name TEXT NOT NULL UNIQUE, display_name TEXT NOT NULL, formula TEXT NOT NULL,
    event_time_window TEXT, customer_key TEXT NOT NULL, value_key TEXT NOT NULL, status TEXT NOT NULL,
    created_s INTEGER NOT NULL, updated_s INTEGER NOT NULL, deactivated_s INTEGER);
CREATE TABLE IF NOT EXISTS customers (id TEXT PRIMARY KEY, created_s INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS identifiers (identifier TEXT PRIMARY KEY, created_ms INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS identifiers_by_age ON identifiers (created_ms);
CREATE TABLE IF NOT EXISTS standing (
    meter_id TEXT NOT NULL, customer TEXT NOT NULL, start_s INTEGER NOT NULL, slot TEXT NOT NULL,
    value TEXT NOT NULL, identifier TEXT NOT NULL, created_ms INTEGER NOT NULL,
    PRIMARY KEY (meter_id, customer, start_s, slot)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS invalid (
    identifier TEXT NOT NULL, meter_id TEXT NOT NULL, customer TEXT NOT NULL, value TEXT NOT NULL,
    code TEXT NOT NULL, created_ms INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS answers (
    key TEXT PRIMARY KEY, fingerprint TEXT NOT NULL, status INTEGER NOT NULL, body TEXT NOT NULL,
    created_ms INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS answers_by_age ON answers (created_ms);
"""
_PRUNE_EVERY_MS = 60_000


class KeptAnswer(NamedTuple):
    """What a request with an Idempotency-Key was answered."""

    fingerprint: str
    status: int
    body: str


class Value(NamedTuple):
    """A value that stands: the last one of its window, or one event of a meter without windows."""

    start_s: int
    value: str
    identifier: str


class Store:
    """Not thread-safe: one event loop uses it."""

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(file, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.executescript(_SCHEMA)
        self._pruned_ms = 0

    def close(self) -> None:
        self._db.close()

    def seed(self, now_s: int) -> None:
        """Make the built-in meters that are missing."""
        for name in BUILTIN_EVENT_NAMES:
            if self.meter_of(name) is None:
                self.put_meter(new_meter(name, name, "sum", "hour", "stripe_customer_id", "value", now_s))

    def meters(self) -> list[Meter]:
        """All meters, the newest first, as Stripe lists them."""
        rows = self._db.execute("SELECT * FROM meters ORDER BY created_s DESC, id")
        return [Meter(*row) for row in rows]

    def meter(self, meter_id: str) -> Meter | None:
        row = self._db.execute("SELECT * FROM meters WHERE id = ?", (meter_id,)).fetchone()
        return None if row is None else Meter(*row)

    def meter_of(self, event_name: str) -> Meter | None:
        row = self._db.execute("SELECT * FROM meters WHERE event_name = ?", (event_name,)).fetchone()
        return None if row is None else Meter(*row)

    def put_meter(self, meter: Meter) -> None:
        marks = ", ".join("?" * len(meter))
        self._db.execute(f"INSERT OR REPLACE INTO meters VALUES ({marks})", meter)

    def customers(self) -> list[tuple[str, int]]:
        """Ids with their time of creation, the newest first."""
        return self._db.execute("SELECT id, created_s FROM customers ORDER BY created_s DESC, id").fetchall()

    def customer_created_s(self, customer: str) -> int | None:
        row = self._db.execute("SELECT created_s FROM customers WHERE id = ?", (customer,)).fetchone()
        return None if row is None else int(row[0])

    def put_customer(self, customer: str, now_s: int) -> None:
        self._db.execute("INSERT OR IGNORE INTO customers VALUES (?, ?)", (customer, now_s))

    def is_duplicate(self, identifier: str, now_ms: int) -> bool:
        """Whether the identifier was taken within the last 24 hours."""
        row = self._db.execute("SELECT created_ms FROM identifiers WHERE identifier = ?", (identifier,)).fetchone()
        return row is not None and row[0] > now_ms - IDENTIFIER_WINDOW_MS

    def kept_answer(self, key: str, now_ms: int) -> KeptAnswer | None:
        row = self._db.execute(
            "SELECT fingerprint, status, body FROM answers WHERE key = ? AND created_ms > ?",
            (key, now_ms - IDENTIFIER_WINDOW_MS),
        ).fetchone()
        return None if row is None else KeptAnswer(*row)

    def keep_answer(self, key: str, answer: KeptAnswer, now_ms: int) -> None:
        self._db.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?)", (key, *answer, now_ms))

    def accept(self, event: Event, now_ms: int, key: str | None, answer: KeptAnswer) -> None:
        """Take the event and, with `key`, keep its answer: both or neither. The customer is made at first sight."""
        with self._transaction():
            self._take_identifier(event.identifier, now_ms)
            self.put_customer(event.customer, now_ms // 1_000)
            slot = "" if event.meter.event_time_window else f"{event.identifier}@{now_ms}"
            start_s = event.meter.window_start_s(event.timestamp_s)
            self._db.execute(
                "INSERT OR REPLACE INTO standing VALUES (?, ?, ?, ?, ?, ?, ?)",
                (event.meter.id, event.customer, start_s, slot, event.value, event.identifier, now_ms),
            )
            if key is not None:
                self.keep_answer(key, answer, now_ms)

    def drop_invalid(self, event: Event, code: str, now_ms: int, key: str | None, answer: KeptAnswer) -> None:
        """Take the event's identifier and nothing more: what Stripe does with an event that it only finds wrong later."""
        with self._transaction():
            self._take_identifier(event.identifier, now_ms)
            self._db.execute(
                "INSERT INTO invalid VALUES (?, ?, ?, ?, ?, ?)",
                (event.identifier, event.meter.id, event.customer, event.value, code, now_ms),
            )
            if key is not None:
                self.keep_answer(key, answer, now_ms)

    def invalid_events(self) -> list[tuple[str, str, str, str, str]]:
        """Identifier, meter, customer, value and code of each event that was taken and then dropped."""
        return self._db.execute("SELECT identifier, meter_id, customer, value, code FROM invalid").fetchall()

    def standing(self, meter_id: str, customer: str, start_s: int, end_s: int) -> list[Value]:
        """The values that stand from `start_s` to before `end_s`, in the order of their windows."""
        rows = self._db.execute(
            "SELECT start_s, value, identifier FROM standing"
            " WHERE meter_id = ? AND customer = ? AND start_s >= ? AND start_s < ? ORDER BY start_s, created_ms",
            (meter_id, customer, start_s, end_s),
        )
        return [Value(*row) for row in rows]

    def prune(self, now_ms: int) -> None:
        """Forget identifiers and answers older than a day, at most once a minute."""
        if now_ms - self._pruned_ms < _PRUNE_EVERY_MS:
            return
        self._pruned_ms = now_ms
        with self._transaction():
            for table in ("identifiers", "answers"):
                self._db.execute(f"DELETE FROM {table} WHERE created_ms <= ?", (now_ms - IDENTIFIER_WINDOW_MS,))

    def counts(self) -> dict[str, int]:
        """Rows by table, for people who look."""
        tables = ("meters", "customers", "standing", "invalid")
        return {name: int(self._db.execute(f"SELECT count(*) FROM {name}").fetchone()[0]) for name in tables}

    def _take_identifier(self, identifier: str, now_ms: int) -> None:
        self._db.execute("INSERT OR REPLACE INTO identifiers VALUES (?, ?)", (identifier, now_ms))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")


def new_meter(
    event_name: str, display_name: str, formula: str, window: str | None, customer_key: str, value_key: str, now_s: int
) -> Meter:
    """An active meter. Its id follows from its event name, so that a double made anew has the same ones."""
    meter_id = f"mtr_double_{hashlib.sha256(event_name.encode()).hexdigest()[:16]}"
    return Meter(
        meter_id, event_name, display_name, formula, window, customer_key, value_key, "active", now_s, now_s, None
    )

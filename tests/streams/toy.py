"""A fold that is easy to check: each id counts once, per customer; one fact per accepted event.

Value of an event: 16 bytes of id, a quantity. Anything else, or an event without a key, is a dead letter.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from streams.port import Epoch, Record, Row, Store

EVENT = struct.Struct(">16sq")
SUM = struct.Struct(">qqq")  # quantity, event count, offset of the last event counted
FACT = struct.Struct(">16sqqq")  # id, quantity, source offset, running sum
POSITION_KEY = b"!position"
OFFSET = struct.Struct(">q")


def encode_event(event_id: int, quantity: int) -> bytes:
    return EVENT.pack(event_id.to_bytes(16, "big"), quantity)


class ToyPartition:
    """See the module."""

    def __init__(self, store: Store) -> None:
        self._store = store
        (raw,) = store.get_many("accounts", [POSITION_KEY])
        self.next_offset: int | None = None if raw is None else OFFSET.unpack(raw)[0]

    def fold(self, records: Sequence[Record]) -> Epoch:
        epoch = Epoch([], {}, [], {}, records[-1].offset + 1)
        events = [event for event in (_read(record, epoch) for record in records) if event is not None]
        sums = self._load("accounts", [b"c" + key for _, key, _, _ in events])
        seen = self._load("seen", [key + event_id for _, key, event_id, _ in events])
        accounts: dict[bytes, Row] = {}
        ids: dict[bytes, Row] = {}
        for offset, key, event_id, quantity in events:
            if seen[key + event_id] is not None:
                continue
            old = sums[b"c" + key]
            total, count, last = (0, 0, -1) if old is None else SUM.unpack(old)
            assert last < offset, "an event was folded before one that precedes it"
            row = SUM.pack(total + quantity, count + 1, offset)
            sums[b"c" + key] = accounts[b"c" + key] = epoch.totals[key] = row
            seen[key + event_id] = ids[key + event_id] = OFFSET.pack(offset)
            epoch.ledger.append((key, FACT.pack(event_id, quantity, offset, total + quantity)))
        accounts[POSITION_KEY] = OFFSET.pack(epoch.next_offset)
        epoch.rows = {"accounts": accounts, "seen": ids}
        self.next_offset = epoch.next_offset
        return epoch

    def _load(self, table: str, keys: list[bytes]) -> dict[bytes, Row]:
        unique = list(dict.fromkeys(keys))
        return dict(zip(unique, self._store.get_many(table, unique), strict=True))


def _read(record: Record, epoch: Epoch) -> tuple[int, bytes, bytes, int] | None:
    """Offset, key, id and quantity; None: unreadable, a dead letter."""
    if record.key is not None and record.value is not None and len(record.value) == EVENT.size:
        return record.offset, record.key, *EVENT.unpack(record.value)
    epoch.dead_letters.append((OFFSET.pack(record.offset), record.value or b""))
    return None


class ToyFold:
    """Makes toy partitions."""

    def open(self, partition: int, store: Store) -> ToyPartition:
        return ToyPartition(store)

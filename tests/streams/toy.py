"""A fold that is easy to check: each id counts once, per customer; one fact per accepted event.

Value of an event: 16 bytes of id, a quantity. Anything else, or an event without a key, is a dead letter.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from streams.port import Answer, Epoch, LastRecord, Record, Row, Stop, Store

EVENT = struct.Struct(">16sq")
SUM = struct.Struct(">qqq")  # quantity, event count, offset of the last event counted
FACT = struct.Struct(">16sqqq")  # id, quantity, source offset, running sum
POSITION_KEY = b"!position"
OFFSET = struct.Struct(">q")


def encode_event(event_id: int, quantity: int) -> bytes:
    return EVENT.pack(event_id.to_bytes(16, "big"), quantity)


class ToyPartition:
    """See the module."""

    stop: Stop | None = None
    last: LastRecord | None = None

    def __init__(self, store: Store) -> None:
        self._store = store
        (raw,) = store.get_many("accounts", [POSITION_KEY])
        self.next_offset: int | None = None if raw is None else OFFSET.unpack(raw)[0]
        self._epoch = _new_epoch()

    def fold(self, records: Sequence[Record], now_ms: int) -> Sequence[Answer]:
        epoch = self._epoch
        events = [event for event in (_read(record, epoch) for record in records) if event is not None]
        sums = self._load("accounts", [b"c" + key for _, key, _, _ in events])
        seen = self._load("seen", [key + event_id for _, key, event_id, _ in events])
        accounts, ids = epoch.rows["accounts"], epoch.rows["seen"]
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
        self.next_offset = records[-1].offset + 1
        return ()

    def take(self) -> Epoch:
        epoch, self._epoch = self._epoch, _new_epoch()
        assert self.next_offset is not None, "an epoch is taken when records were folded"
        epoch.next_offset = self.next_offset
        epoch.rows["accounts"][POSITION_KEY] = OFFSET.pack(epoch.next_offset)
        return epoch

    def begin_anew(self, first: Record) -> bool:
        return False

    def hear(self, record: Record) -> bool:
        return False

    def _load(self, table: str, keys: list[bytes]) -> dict[bytes, Row]:
        """Rows of the open epoch, over those of the store."""
        unique, changed = list(dict.fromkeys(keys)), self._epoch.rows[table]
        return dict(zip(unique, self._store.get_many(table, unique), strict=True)) | {
            key: changed[key] for key in unique if key in changed
        }


def _new_epoch() -> Epoch:
    return Epoch([], {}, [], {"accounts": {}, "seen": {}}, 0)


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

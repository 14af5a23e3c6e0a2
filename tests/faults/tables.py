"""An independent reader of the fold's tables, as changelogs and on disk, and of `usage-totals`.

Keys and MessagePack arrays are read by position, as `schemas/README.md` and `schemas/rows.py` document them; nothing of the
product is imported.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import rocksdict

from tests.faults.books import Differences, Entry, different, read_topic
from tests.faults.naive import Model, Sum, Used

__all__ = ["Rows", "compare_rows", "compare_totals", "disk_differences", "last_values", "table_differences"]

Rows = dict[int, dict[bytes, bytes]]
"""The rows of each partition: key and last value."""

_CHANGELOGS: Final = {"accounts": "accounts-changelog", "seen": "seen-changelog"}
_TOTALS: Final = "usage-totals"
_NUMBER: Final = struct.Struct(">Q")
_NANO: Final = Decimal(1_000_000_000)
_ENGINE_KEYS: Final = b"\xff\xff"
_HOUR_TOTAL, _STRIPE_HOUR = 1, 2


def table_differences(bootstrap_servers: str, model: Model) -> Differences:
    """What the changelogs and `usage-totals` say last, against what was sent and against each other."""
    accounts, seen = (last_values(read_topic(bootstrap_servers, topic)) for topic in _CHANGELOGS.values())
    totals = last_values(read_topic(bootstrap_servers, _TOTALS))
    return compare_totals(totals, model) + compare_rows(accounts, seen, totals, model)


def last_values(entries: Iterable[Entry]) -> Rows:
    rows: Rows = {}
    for entry in entries:
        assert entry.key is not None, "a row has a key"
        of_partition = rows.setdefault(entry.partition, {})
        if entry.value is None:
            of_partition.pop(entry.key, None)
        else:
            of_partition[entry.key] = entry.value
    return rows


def compare_totals(totals: Rows, model: Model) -> Differences:
    """`usage-totals`: [1, version, incarnation, partition, offset, account, billing start, meter, feature, model, hour,
    booking day, quantity, event count, digest], or [2, version, incarnation, partition, offset, account, Stripe customer,
    Stripe's name of the meter, hour, quantity].
    """
    usage: dict[Used, Sum] = {}
    stripe: dict[tuple[Used, int], Decimal] = {}
    for values in map(msgspec.msgpack.decode, _all_values(totals)):
        if values[0] == _HOUR_TOTAL:
            used, quantity, events = Used(values[5], values[7]), Decimal(values[12]), values[13]
            known = usage.get(used, Sum(Decimal(0), 0))
            usage[used] = Sum(known.quantity + quantity, known.events + events)
        else:
            assert values[0] == _STRIPE_HOUR, f"a total of kind {values[0]}"
            stripe[Used(values[5], values[7]), values[8]] = Decimal(values[9])
    told = {key: quantity for key, quantity in stripe.items() if quantity}
    return different("totals: usage", model.usage, usage) + different("totals: Stripe hours", model.stripe, told)


class _RowKey(NamedTuple):
    """Of an hour total, `t`, or of an hour for Stripe, `u`."""

    account: str
    meter: str
    hour: int


def compare_rows(accounts: Rows, seen: Rows, totals: Rows, model: Model) -> Differences:
    """The tables: each id that was ever accepted; each hour total that is open, as `usage-totals` tells it."""
    ids = dict.fromkeys(model.counted | model.failed, 1)
    found = different("tables: seen", ids, dict.fromkeys(map(_seen_id, _all_keys(seen)), 1))
    for partition, rows in accounts.items():
        told = totals.get(partition, {})
        ours = {key: _sum_of_row(value) for key, value in rows.items() if key[:1] in b"tu"}
        # Rows of days that are over are closed, and go; what is told of them stays.
        theirs = {key: _sum_of_total(told[key]) for key in ours if key in told}
        found += different(f"tables: totals of partition {partition}", theirs, ours)
        found += _unclosed(partition, told, ours)
    return found


def _unclosed(partition: int, told: dict[bytes, bytes], ours: dict[bytes, Any]) -> Differences:
    """Totals of the newest booking day are open: none of them may lack its row."""
    days = [_NUMBER.unpack_from(key, 1)[0] for key in told if key[:1] == b"t"]
    newest = b"t" + _NUMBER.pack(max(days, default=0))
    lacking = [key for key in told if key.startswith(newest) and key not in ours]
    return [f"tables: partition {partition} lacks {len(lacking)} open totals"] if lacking else []


def _sum_of_row(value: bytes) -> tuple[Decimal, int]:
    """[version, quantity in nano, event count, …], of Stripe's hours [version, quantity in nano, offset]."""
    _version, nano, *rest = msgspec.msgpack.decode(value)
    return Decimal(nano) / _NANO, rest[0]


def _sum_of_total(value: bytes) -> tuple[Decimal, int]:
    values = msgspec.msgpack.decode(value)
    return (Decimal(values[12]), values[13]) if values[0] == _HOUR_TOTAL else (Decimal(values[9]), values[4])


def _seen_id(key: bytes) -> tuple[str, str]:
    account, event_id = key[1:].split(b"\0")
    return account.decode(), event_id.decode()


def _all_values(rows: Rows) -> Iterator[bytes]:
    for of_partition in rows.values():
        yield from of_partition.values()


def _all_keys(rows: Rows) -> Iterator[bytes]:
    for of_partition in rows.values():
        yield from of_partition


def disk_differences(bootstrap_servers: str, tables: Path, partitions: Iterable[int]) -> Differences:
    """A stopped worker's tables of the partitions that it owned, against the changelogs' last values."""
    found = []
    for table, topic in _CHANGELOGS.items():
        told = last_values(read_topic(bootstrap_servers, topic))
        for partition in partitions:
            name = f"{table}-{partition}"
            found += different(f"disk: {name}", told.get(partition, {}), _rows_on_disk(tables / name))
    return found


def _rows_on_disk(path: Path) -> dict[bytes, bytes]:
    if not path.exists():
        return {}
    options = rocksdict.Options(raw_mode=True)
    database = rocksdict.Rdict(str(path), options=options, access_type=rocksdict.AccessType.read_only())
    try:
        return {key: value for key, value in database.items() if not key.startswith(_ENGINE_KEYS)}
    finally:
        database.close()

"""The judgement of a history: what the log, the tables and the answers say, beside what the model says."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from aiokafka.structs import TopicPartition

from schemas.codec import decode
from schemas.rows import ACCOUNTS, POSITION_KEY, SEEN, STRIPE_HOURS, TOTALS, decode_position, seen_expires_at_ms
from streams.loader import load
from streams.options import TopicNames
from streams.port import TABLES
from tests.simulation.disk import Disk
from tests.simulation.log import Entry
from tests.simulation.model import Fact, Model, Order, Stuck, Tick

if TYPE_CHECKING:
    from tests.simulation.world import World

__all__ = ["differences"]

TOPICS = TopicNames()
_SHOWN_MAX = 3
_unpack = msgspec.msgpack.Decoder().decode


class LedgerRecord(NamedTuple):
    """One source record as the ledger has it."""

    offset: int
    log_ms: int
    source: list[Any]
    raw_facts: list[list[Any]]


async def differences(world: World) -> list[str]:
    """Everything that does not add up at the end; nothing when all is well."""
    found: list[str] = []
    for number in range(world.plan.partition_count):
        model = Model(number)
        found += list(_ledger(world, number, model))[:_SHOWN_MAX]
        found += list(_totals(world, number, model))[:_SHOWN_MAX]
        found += list(_dead_letters(world, number, model))[:_SHOWN_MAX]
        found += list(_positions(world, number))[:_SHOWN_MAX]
        found += list(_rows(world, number, model))[:_SHOWN_MAX]
        found += (await _tables(world, number, model))[:_SHOWN_MAX]
    return found


# The ledger and the answers


def _ledger(world: World, number: int, model: Model) -> Iterator[str]:
    """Each committed source record once, in order, as it was, with the model's facts; and nobody ever said otherwise."""
    told, gaps = _read_ledger(world, number)
    yield from gaps
    previous = -1
    sources = world.source(number)
    orders = [(sent.offset, sent.note) for sent in sources if isinstance(sent.note, Order)]
    for sent, record in zip_longest(sources, told):
        if sent is None or record is None or record.offset != sent.offset:
            yield f"ledger {number}: {record and record.offset} stands where the log has {sent and sent.offset}"
            return
        facts = [_plain(fact) for fact in record.raw_facts]
        later = [order for order in orders if order[0] > sent.offset]
        try:
            note = Tick() if sent.note is None else sent.note
            honoured_at = facts[0][1] if facts and facts[0][0] == "order honoured" else None
            expected = model.decide(sent.offset, sent.timestamp, note, later, honoured_at)
        except Stuck as stuck:
            yield f"ledger {number}: {stuck}, and the fold went on"
            return
        if facts != expected:
            yield f"ledger {number}: {sent.offset} ({sent.note}) caused\n      {facts}, not\n      {expected}"
        source = [sent.key, sent.value, [list(header) for header in sent.headers], sent.timestamp, previous]
        if record.source != source:
            yield f"ledger {number}: {sent.offset} came as {record.source}, was {source}"
        if record.log_ms != model.log_ms:
            yield f"ledger {number}: log time at {sent.offset} is {record.log_ms}, not {model.log_ms}"
        decided = world.decisions.get((number, sent.offset))
        if decided != (record.log_ms, _pack(record.raw_facts)):
            yield f"ledger {number}: {sent.offset} was answered {decided}, the ledger has {record.raw_facts}"
        previous = sent.offset


def _pack(raw_facts: list[list[Any]]) -> bytes:
    return msgspec.msgpack.encode(raw_facts)


def _read_ledger(world: World, number: int) -> tuple[list[LedgerRecord], list[str]]:
    """The committed ledger, put together by its description alone: `schemas/ledger.py`, first lines."""
    told: list[LedgerRecord] = []
    for entry in world.broker.logs[TOPICS.ledger, number].committed():
        assert entry.value is not None, "the ledger has no tombstones"
        kind, _, _, partition, offset, seq, count, log_ms, source, fact = _unpack(entry.value)
        assert (kind, partition) == (1, number), "facts here are small, and lie on their source's partition"
        if seq == 0:
            told.append(LedgerRecord(offset, log_ms, source, [fact]))
        elif not told or told[-1].offset != offset or len(told[-1].raw_facts) != seq:
            return told, [f"ledger {number}: fact {seq} of {offset} follows {told[-1] if told else 'nothing'}"]
        else:
            told[-1].raw_facts.append(fact)
        if seq >= count:
            return told, [f"ledger {number}: {offset} has more than its {count} facts"]
    return told, []


_FACTS: dict[int, tuple[str, tuple[int, ...]]] = {
    1: ("counted", (0, 1, 2, 4, 5, 6, 7, 8, 9, 10)),
    2: ("duplicate", (0, 1, 2)),
    3: ("rejected", (0, 1, 3, 4)),
    4: ("opened", (0, 1, 2)),
    6: ("tick", (0,)),
    7: ("total closed", tuple(range(11))),
    8: ("stripe hour closed", tuple(range(6))),
    9: ("genesis", (0, 1, 2, 3)),
    10: ("genesis refused", ()),
    11: ("command refused", (0, 1)),
    14: ("behaviour switched", (0,)),
    15: ("order repeated", (0,)),
    20: ("snapshot begun", (0,)),
    21: ("account snapshot", (0, 4, 5)),
    23: ("snapshot done", (0,)),
}
"""By the wire's tag: the model's name, and which fields it has an opinion of (not on messages and payload digests)."""


def _plain(raw: list[Any]) -> Fact:
    if raw[0] in (12, 13):  # their effect is a struct of its own
        effect = [*raw[-1], None, None, None, None][:5]
        return ("order honoured", raw[3], *effect) if raw[0] == 12 else ("order applied", *effect)
    name, fields = _FACTS[raw[0]]
    return (name, *(raw[1 + index] for index in fields))


# What readers of the other topics see


def _totals(world: World, number: int, model: Model) -> Iterator[str]:
    latest: dict[tuple[Any, ...], tuple[Any, ...]] = {}
    for entry in world.broker.logs[TOPICS.totals, number].ever_committed():
        assert entry.value is not None, "totals are never deleted"
        kind, _, _, _, version, *rest = _unpack(entry.value)
        if kind == 1:
            account, month_s, meter, feature, label, hour, day, quantity, count, digest = rest
            key = ("total", day, account, month_s, meter, feature, label, hour)
            latest[key] = (quantity, count, digest, version)
        else:
            account, customer, name, hour, quantity = rest
            latest["stripe", hour, account, customer, name] = (quantity, version)
    yield from _unequal(f"totals {number}", latest, model.published)


def _dead_letters(world: World, number: int, model: Model) -> Iterator[str]:
    letters = [decode(entry.value) for entry in world.broker.logs[TOPICS.dead_letters, number].committed()]
    told = [(letter.offset, letter.reason) for letter in letters]  # type: ignore[union-attr]
    if told != model.dead:
        yield f"dead letters {number}: {told}, not {model.dead}"


def _positions(world: World, number: int) -> Iterator[str]:
    """The position row never goes back, and ends behind the last record."""
    position = log_ms = -1
    for entry in world.broker.logs[TOPICS.accounts_changelog, number].ever_committed():
        if entry.key == POSITION_KEY and entry.value is not None:
            row = decode_position(entry.value)
            if row.next_offset < position or row.log_ms < log_ms:
                yield f"position {number}: {row.next_offset} at {row.log_ms} follows {position} at {log_ms}"
            position, log_ms = row.next_offset, row.log_ms
    records = world.source(number)
    if records and position <= records[-1].offset:
        yield f"position {number}: {position}, but {records[-1].offset} is on the log"


# Rows


def _rows(world: World, number: int, model: Model) -> Iterator[str]:
    """The changelogs' last values are the model's open rows."""
    accounts, seen = (_last_values(world, topic, number) for topic in TOPICS.changelogs.values())
    found: dict[Any, Any] = {}
    for key, value in accounts.items():
        if key.startswith(ACCOUNTS.prefix):
            row = ACCOUNTS.decode_row(value)
            counters = {meter: (counter.period_start_s, counter.used_nano) for meter, counter in row.counters.items()}
            found[ACCOUNTS.decode_key(key)] = (row.applied_offset, counters)
        elif key.startswith(TOTALS.prefix):
            total_key, total = TOTALS.decode_key(key), TOTALS.decode_row(value)
            found["total", *total_key] = (total.event_count, total.version_offset)
        elif key.startswith(STRIPE_HOURS.prefix):
            hour_key, hour = STRIPE_HOURS.decode_key(key), STRIPE_HOURS.decode_row(value)
            found["stripe", *hour_key] = (hour.quantity_nano, hour.version_offset)
    expected: dict[Any, Any] = {account: (offset, {}) for account, offset in model.accounts.items()}
    for (account, meter), (start_s, used) in model.used.items():
        expected[account][1][meter] = (start_s, int(used * 10**9))
    expected |= {key: (len(lines), model.versions[key]) for key, lines in model.totals.items()}
    expected |= {key: (int(quantity * 10**9), model.versions[key]) for key, quantity in model.stripe.items()}
    yield from _unequal(f"rows {number}", found, expected)
    ids = {tuple(SEEN.decode_key(key)): SEEN.decode_row(value) for key, value in seen.items()}
    told = {key: (row.accepted_at_ms, row.first_offset) for key, row in ids.items()}
    yield from _unequal(f"ids {number}", told, {key: (met.accepted_ms, met.offset) for key, met in model.met.items()})


async def _tables(world: World, number: int, model: Model) -> list[str]:
    """Every disk, however stale, and an empty one: brought up to date by the real loader, all are the changelogs."""
    found: list[str] = []
    disks = {f"worker {node.number}": node.disk for node in world.nodes} | {"an empty disk": Disk()}
    now_ms = world.wall_ms()
    for name, disk in disks.items():
        tables: dict[TopicPartition, Any] = {
            TopicPartition(topic, number): disk.get(table, number) for table, topic in TOPICS.changelogs.items()
        }
        await load(world.reader(), tables, now_ms, world.state_age_max_ms)
        for table in TABLES:
            rows = disk.get(table, number).rows
            expected = _last_values(world, TOPICS.changelogs[table], number)
            if table == SEEN.table:  # expired rows may have been swept from the disk, or be gone from the changelog
                # (by the broker's time, which a quiet partition's log time does not follow)
                past_ms = max(model.log_ms, now_ms)
                expired = {k for k, value in expected.items() if seen_expires_at_ms(value) <= past_ms}
                rows = {key: value for key, value in rows.items() if key not in expired}
                expected = {key: value for key, value in expected.items() if key not in expired}
            found += list(_unequal(f"table {table}-{number} of {name}", rows, expected))[:_SHOWN_MAX]
    return found


def _last_values(world: World, topic: str, number: int) -> dict[bytes, bytes]:
    values: dict[bytes, bytes] = {}
    entry: Entry
    for entry in world.broker.logs[topic, number].ever_committed():
        assert entry.key is not None, "rows have keys"
        if entry.value is None:
            values.pop(entry.key, None)
        else:
            values[entry.key] = entry.value
    return values


def _unequal(what: str, found: dict[Any, Any], expected: dict[Any, Any]) -> Iterator[str]:
    if found == expected:
        return
    for key in [*found, *(key for key in expected if key not in found)]:
        if found.get(key) != expected.get(key):
            yield f"{what}: {key} is {found.get(key)}, not {expected.get(key)}"

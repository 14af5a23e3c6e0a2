"""Changelogs as a deployment of some weeks has them: mostly event ids, with accounts and open hour totals between."""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterator
from typing import NamedTuple

from confluent_kafka import Producer

from billing.catalog.types import PlanRef
from billing.state import Account, Counter, Seen, SeenKey, Total, TotalKey
from schemas.rows import ACCOUNTS, SEEN, TOTALS

__all__ = ["Row", "make_rows", "produce_rows"]

_SEEN_PART = 0.9  # an id is kept for 35 days, an hour total for one or two
_TOTALS_PART = 0.08
_CUSTOMERS = 20_000
_METERS = ("calls", "tokens", "input_tokens", "output_tokens")
_START_MS = 1_772_323_200_000
_ROWS_PER_TRANSACTION = 20_000
_TIMEOUT_S = 120.0


class Row(NamedTuple):
    table: str
    partition: int
    key: bytes
    value: bytes


def make_rows(count: int, partitions: int, seed: int) -> Iterator[Row]:
    """`count` rows with keys of their own, in the sizes that the fold writes: about 90 bytes of an id, 130 of an account."""
    rng = random.Random(seed)
    for number in range(count):
        customer = rng.randrange(_CUSTOMERS)
        account, partition = f"acme/customer-{customer:06}", customer % partitions
        kind = rng.random()
        if kind < _SEEN_PART:
            event_id = str(uuid.UUID(int=rng.getrandbits(128)))
            seen = Seen(_START_MS + number, number, rng.randbytes(16))
            yield Row("seen", partition, SEEN.encode_key(SeenKey(account, event_id)), SEEN.encode_row(seen))
        elif kind < _SEEN_PART + _TOTALS_PART:
            key = TotalKey(20_500, account, 1_772_323_200, rng.choice(_METERS), "chat", "gpt-5", 492_000 + number)
            total = Total(rng.randrange(10**13), rng.randrange(1, 500), rng.getrandbits(128), number)
            yield Row("accounts", partition, TOTALS.encode_key(key), TOTALS.encode_row(total))
        else:
            counters = {meter: Counter(1_772_323_200, rng.randrange(10**15)) for meter in _METERS}
            row = Account(PlanRef("hybrid", 1), _START_MS, f"cus_{customer:014}", counters, number)
            yield Row("accounts", partition, ACCOUNTS.encode_key(f"{account}-{number}"), ACCOUNTS.encode_row(row))


def produce_rows(bootstrap_servers: str, topics: dict[str, str], rows: Iterator[Row]) -> dict[str, int]:
    """Put rows on the changelog of their table, in transactions as a fold's epochs are; gives bytes of rows by table."""
    producer = Producer(
        {
            "bootstrap.servers": bootstrap_servers,
            "transactional.id": "bench-rows",
            "linger.ms": 50,
            "queue.buffering.max.messages": 2 * _ROWS_PER_TRANSACTION,
            "log_level": 0,
        }
    )
    producer.init_transactions(_TIMEOUT_S)
    size_bytes = dict.fromkeys(topics, 0)
    producer.begin_transaction()
    for number, row in enumerate(rows, 1):
        producer.produce(topics[row.table], row.value, row.key, partition=row.partition)
        size_bytes[row.table] += len(row.key) + len(row.value)
        if number % _ROWS_PER_TRANSACTION == 0:
            producer.commit_transaction(_TIMEOUT_S)
            producer.begin_transaction()
    producer.commit_transaction(_TIMEOUT_S)
    return size_bytes

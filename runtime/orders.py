"""`meterlog quarantine`, `release`, `resume`, `freeze-time`, `switch-behaviour`: an operator's orders, signed, onto the log."""

import json
import secrets
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import typer
from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from billing.accounts.types import parse_account
from billing.behaviours import BEHAVIOURS
from billing.errors import InvalidField
from billing.facts import GenesisApplied
from billing.orders.types import (
    OPERATOR,
    Order,
    QuarantineAccount,
    QuarantineRecord,
    ReleaseAccount,
    Resume,
    SwitchBehaviour,
    Time,
    encode_order,
    order_type,
)
from billing.records import Command, Genesis, Position
from billing.routing import partition_of
from billing.signing import message_to_sign
from runtime.errors import CommandError
from runtime.ledger_log import source_records
from runtime.logs import explained, partitions_of, range_of, read
from runtime.settings import Settings
from runtime.topics import operator_key, public_bytes
from schemas.codec import decode_record, encode
from schemas.topics import FOLD_GROUP, LEDGER, USAGE_EVENTS

__all__ = ["Given", "Operator", "print_given"]

_TIMEOUT_S: Final = 15.0
_TRANSACTION_MS: Final = 5_000
"""An order to all partitions is on all of them or on none; it takes a fraction of a second."""
_TRANSACTIONAL_ID: Final = "meterlog-orders"
"""Fixed: of two operators at once the second fences the first, who is told."""


class Given(NamedTuple):
    """An order on the log."""

    kind: str
    places: tuple[tuple[int, int], ...]
    """Partition and offset of each of its records."""
    warnings: tuple[str, ...]


class Operator:
    """Gives the orders of whoever holds the operator's key. Each checks first what can be known, and raises CommandError."""

    def __init__(self, settings: Settings, now_ms: int) -> None:
        """`now_ms`: when the orders are issued; it numbers those about an account."""
        self._servers = settings.bootstrap_servers
        self._key = _held_key(settings.operator_key_path)
        self._now_ms = now_ms
        self._count = partitions_of(self._servers, USAGE_EVENTS)
        if not self._count:
            message = f"there is no {USAGE_EVENTS}; make the topics with: meterlog topics create"
            raise CommandError(message)

    def quarantine_record(self, partition: int, offset: int) -> Given:
        """Set the record aside before which the partition stands."""
        genesis, position = self._place(partition, offset)
        return self._give(QuarantineRecord(position), genesis, partition, self._doubts(position))

    def quarantine_account(self, account: str, partition: int | None = None, offset: int | None = None) -> Given:
        """Set an account aside: from the record on before which its partition stands, or from where the order lies."""
        home = self._home(account)
        if partition is not None and partition != home:
            message = f"{account} lies on partition {home}, not on {partition}; what is parked there is another's"
            raise CommandError(message)
        if offset is None:
            return self._give(QuarantineAccount(account, None), self._genesis(home), home, ())
        genesis, position = self._place(home, offset)
        return self._give(QuarantineAccount(account, position), genesis, home, self._doubts(position))

    def release(self, account: str) -> Given:
        """End an account's quarantine."""
        home = self._home(account)
        return self._give(ReleaseAccount(account), self._genesis(home), home, ())

    def resume(self, partition: int, offset: int) -> Given:
        """Let the record be folded before which the partition stands."""
        genesis, position = self._place(partition, offset)
        return self._give(Resume(position), genesis, partition, self._doubts(position))

    def freeze_time(self, partition: int, offset: int, last_offset: int | None = None) -> Given:
        """Let log time stand from `offset` to `last_offset`; None: to the last record that is on the log now."""
        genesis, position = self._place(partition, offset)
        last = range_of(self._servers, USAGE_EVENTS, partition).end - 1 if last_offset is None else last_offset
        if last < offset:
            message = f"--to {last} lies before --offset {offset}"
            raise CommandError(message)
        return self._give(Time(position, last), genesis, partition, self._doubts(position))

    def switch_behaviour(self, version: int) -> Given:
        """Switch all partitions to the next rules, in one transaction."""
        if version not in BEHAVIOURS:
            known = ", ".join(str(number) for number in sorted(BEHAVIOURS))
            message = (
                f"this release does not know behaviour version {version} (it knows {known}); after that switch no worker of it "
                "could fold. Upgrade every worker first, and give the order with the release that they run"
            )
            raise CommandError(message)
        records = []
        for partition in range(self._count):
            command = self._signed(SwitchBehaviour(version), self._genesis(partition), None)
            records.append((partition, None, encode(command)))
        return Given(order_type(SwitchBehaviour(version)), self._append(records), ())

    # What can be known before

    def _home(self, account: str) -> int:
        try:
            parse_account(account.encode())
        except InvalidField as exc:
            message = f"--account: {exc.message}; name it as org/customer"
            raise CommandError(message) from exc
        return partition_of(account.encode(), self._count)

    def _place(self, partition: int, offset: int) -> tuple[GenesisApplied | Genesis, Position]:
        """The position, where there is such a record."""
        if not 0 <= partition < self._count:
            message = f"there is no partition {partition}: {USAGE_EVENTS} has 0 to {self._count - 1}"
            raise CommandError(message)
        held = range_of(self._servers, USAGE_EVENTS, partition)
        if not held.start <= offset < held.end:
            message = f"partition {partition} has no offset {offset}: it holds {held.start} to {held.end - 1}"
            raise CommandError(message)
        genesis = self._genesis(partition)
        return genesis, Position(genesis.incarnation, partition, offset)

    def _doubts(self, position: Position) -> tuple[str, ...]:
        """Raises CommandError where the record is folded already: the order would come to nothing."""
        next_offset = self._next_offset(position.partition)
        if next_offset > position.offset:
            message = f"offset {position.offset} of partition {position.partition} is folded already"
            raise CommandError(message)
        with closing(
            read(self._servers, USAGE_EVENTS, position.partition, next_offset, position.offset + 1)
        ) as records:
            first = next(records, None)
        if first is None or first.offset != position.offset:
            where = "elsewhere" if first is None else f"before offset {first.offset}"
            return (f"partition {position.partition} is {where} now; the order works only while it stands there",)
        return ()

    def _next_offset(self, partition: int) -> int:
        """How far the fold has come for certain: the group's offset is committed with each epoch."""
        consumer = Consumer({"bootstrap.servers": self._servers, "group.id": FOLD_GROUP, "log_level": 0})
        with closing(consumer), explained(self._servers):
            (found,) = consumer.committed([TopicPartition(USAGE_EVENTS, partition)], timeout=_TIMEOUT_S)
        offset: int = found.offset
        return max(offset, 0)  # below zero: nothing was committed yet

    def _genesis(self, partition: int) -> GenesisApplied | Genesis:
        """Whose partition it is: by the ledger, which keeps it for ever, or by the log where nothing was folded yet."""
        genesis = self._found_genesis(partition)
        if genesis is None:
            message = f"partition {partition} has no genesis; make its topics with: meterlog topics create"
            raise CommandError(message)
        if genesis.operator_public_key != public_bytes(self._key):
            message = (
                f"deployment {genesis.deployment_id} has another operator's key; set METERLOG_OPERATOR_KEY_FILE to the one that "
                "its topics were made with"
            )
            raise CommandError(message)
        return genesis

    def _found_genesis(self, partition: int) -> GenesisApplied | Genesis | None:
        with closing(
            source_records(self._servers, partition, end=range_of(self._servers, LEDGER, partition).end)
        ) as told:
            for record in told:
                first = record.facts[0]
                return first if isinstance(first, GenesisApplied) else None
        with closing(read(self._servers, USAGE_EVENTS, partition)) as records:
            for found in records:
                genesis = decode_record(found.value)
                return genesis if isinstance(genesis, Genesis) else None
        return None

    # Signing and appending

    def _signed(self, order: Order, genesis: GenesisApplied | Genesis, key: bytes | None) -> Command:
        request_id = secrets.token_bytes(16)
        unsigned = Command(
            order_type(order), genesis.deployment_id, request_id, self._now_ms, encode_order(order), OPERATOR, b""
        )
        return msgspec.structs.replace(unsigned, signature=self._key.sign(message_to_sign(unsigned, key)))

    def _give(
        self, order: Order, genesis: GenesisApplied | Genesis, partition: int, warnings: tuple[str, ...]
    ) -> Given:
        key = order.account.encode() if isinstance(order, (QuarantineAccount, ReleaseAccount)) else None
        value = encode(self._signed(order, genesis, key))
        return Given(order_type(order), self._append([(partition, key, value)]), warnings)

    def _append(self, records: Sequence[tuple[int, bytes | None, bytes]]) -> tuple[tuple[int, int], ...]:
        """All of them or none. Killed before its commit, the order was never given."""
        places: list[tuple[int, int]] = []

        def note(error: KafkaError | None, message: Message) -> None:
            if error is None:
                places.append((message.partition(), message.offset()))

        producer = Producer(
            {
                "bootstrap.servers": self._servers,
                "transactional.id": _TRANSACTIONAL_ID,
                "transaction.timeout.ms": _TRANSACTION_MS,
                "log_level": 0,
            }
        )
        with explained(self._servers):
            producer.init_transactions(_TIMEOUT_S)
            producer.begin_transaction()
            for partition, key, value in records:
                producer.produce(USAGE_EVENTS, value, key, partition, on_delivery=note)
            producer.commit_transaction(_TIMEOUT_S)
        return tuple(sorted(places))


def print_given(given: Given, *, as_json: bool) -> None:
    """Where the order lies; doubts go to stderr."""
    for warning in given.warnings:
        typer.echo(f"meterlog: {warning}", err=True)
    if as_json:
        found: dict[str, Any] = {
            "order": given.kind,
            "records": [{"partition": partition, "offset": offset} for partition, offset in given.places],
            "warnings": list(given.warnings),
        }
        typer.echo(json.dumps(found, indent=2))
        return
    places = ", ".join(f"{partition}/{offset}" for partition, offset in given.places)
    typer.echo(f"the order {given.kind} lies at {places}")


def _held_key(path: Path) -> Ed25519PrivateKey:
    """The key that the topics were made with; a new one would be worth nothing."""
    if not path.exists():
        message = f"the operator's key {path} is not there; set METERLOG_OPERATOR_KEY_FILE to the one the topics were made with"
        raise CommandError(message)
    return operator_key(path)

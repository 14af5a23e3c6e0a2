"""`meterlog late` and `events send --late`: usage older than the window, which a person approves or rejects."""

import json
import secrets
import time
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec
import typer
from confluent_kafka import KafkaError, Message, Producer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from rich.console import Console
from rich.table import Table

from billing.errors import InvalidField
from billing.facts import CommandRefused, EventCounted, GenesisApplied, LateApproved, LateRejected, Reason
from billing.late.types import Approve, LateRequest, LateUsage, Reject, encode_late, late_type
from billing.metering.rules import check_fields, check_time
from billing.orders.types import OPERATOR
from billing.records import Command, Position, UsageEvent, from_ordinal
from billing.signing import message_to_sign
from runtime.errors import CommandError
from runtime.event_files import BadLine
from runtime.ledger_log import source_records
from runtime.logs import partitions_of, range_of, read
from runtime.send import Way
from runtime.settings import Settings
from runtime.topics import operator_key, public_bytes
from schemas.codec import encode
from schemas.rows import LATE
from schemas.topics import ACCOUNTS_CHANGELOG, LEDGER, USAGE_EVENTS

__all__ = [
    "Decided",
    "Signer",
    "Waiting",
    "choose",
    "decide_waiting",
    "late_way",
    "list_waiting",
    "print_decided",
    "print_waiting",
]

_TIMEOUT_S: Final = 30.0
_POLL_S: Final = 0.2
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Waiting:
    """A late event that nobody has decided yet."""

    account: str
    event_id: str
    occurred_at: str
    meter: str
    """Or its event type."""
    quantity: str
    partition: int
    received_offset: int
    counted_at: int | None
    """Offset at which an event of this id was counted before, longer ago than ids are remembered; None: never."""
    received_incarnation: int = 1
    """Of the log that `received_offset` is of."""
    counted_incarnation: int = 1
    """Of the log that `counted_at` is of."""

    @property
    def counted_place(self) -> str:
        """Where it was counted before, as `dead-letters` names records; empty where it was not."""
        if self.counted_at is None:
            return ""
        place = f"{self.partition}/{self.counted_at}"
        return place if self.counted_incarnation == 1 else f"{self.counted_incarnation}/{place}"


@dataclass(frozen=True, slots=True)
class Decided:
    """What came of the approvals or rejections that were sent."""

    decided: int
    refused: tuple[str, ...]
    """Those that the fold refused, each with the reason."""
    pending: int
    """On the log, and not folded within half a minute."""


class Signer:
    """Signs requests with the operator's key, for the deployment that the ledger names."""

    def __init__(self, settings: Settings, now_ms: Callable[[], int]) -> None:
        """Raises CommandError where the key is not this deployment's, or the fold has not begun."""
        self._now_ms = now_ms
        self._key: Ed25519PrivateKey = operator_key(settings.operator_key_path)
        genesis = _genesis(settings.bootstrap_servers)
        if genesis.operator_public_key != public_bytes(self._key):
            message = (
                f"{settings.operator_key_path} is not the key of deployment {genesis.deployment_id}'s operator;"
                " name it with METERLOG_OPERATOR_KEY_FILE"
            )
            raise CommandError(message)
        self._deployment_id = genesis.deployment_id

    def record(self, request: LateRequest, account: str) -> bytes:
        """The request as a record's value, to lie under the account's key."""
        unsigned = Command(
            late_type(request),
            self._deployment_id,
            secrets.token_bytes(16),
            self._now_ms(),
            encode_late(request),
            OPERATOR,
            signature=b"",
        )
        signature = self._key.sign(message_to_sign(unsigned, account.encode()))
        return encode(msgspec.structs.replace(unsigned, signature=signature))


def late_way(settings: Settings, now_ms: Callable[[], int]) -> Way:
    """How `events send --late` sends: each event within a signed command, those that are not late refused by their line."""
    signer = Signer(settings, now_ms)
    return Way(USAGE_EVENTS, _refusal, lambda account, event: signer.record(LateUsage(event), account))


def list_waiting(settings: Settings, org: str | None) -> list[Waiting]:
    """What waits, oldest first: from the rows' changelog, and from the ledger whether their ids were counted before."""
    servers = settings.bootstrap_servers
    found = [row for number in range(partitions_of(servers, LEDGER)) for row in _waiting(servers, number, org)]
    return sorted(found, key=lambda row: (row.occurred_at, row.account, row.event_id))


def choose(
    waiting: Sequence[Waiting], ids: Sequence[str], customer: str | None, *, every: bool, approve: bool
) -> list[Waiting]:
    """Those that a person named; to be approved, none whose id was counted before.

    Raises CommandError for an id that none has, or several customers have, or that was counted before.
    """
    if every == bool(ids):
        message = "name the events' ids, or all of them with --all"
        raise CommandError(message)
    own = [row for row in waiting if customer is None or row.account.partition("/")[2] == customer]
    if every:
        return [row for row in own if not approve or row.counted_at is None]
    chosen = []
    for event_id in ids:
        named = [row for row in own if row.event_id == event_id]
        if len(named) != 1:
            whose = ", ".join(row.account for row in named)
            message = (
                f"{event_id}: waits for several customers ({whose}); say which with --customer"
                if named
                else f"{event_id}: no late event of this id waits; see meterlog late list"
            )
            raise CommandError(message)
        if approve and named[0].counted_at is not None:
            message = f"{event_id} was counted before, at {named[0].counted_place}; reject this one"
            raise CommandError(message)
        chosen += named
    return chosen


def decide_waiting(settings: Settings, rows: Sequence[Waiting], now_ms: Callable[[], int], *, approve: bool) -> Decided:
    """Sign and send a decision of each row, and wait for what the fold makes of them."""
    if not rows:
        return Decided(0, (), 0)
    servers, signer = settings.bootstrap_servers, Signer(settings, now_ms)
    starts = {row.partition: range_of(servers, LEDGER, row.partition).end for row in rows}
    requests = [(row.account, (Approve if approve else Reject)(row.event_id)) for row in rows]
    places = _append(servers, [(account, signer.record(request, account)) for account, request in requests])
    return _outcomes(servers, starts, places)


def print_waiting(waiting: Sequence[Waiting], *, as_json: bool) -> None:
    """A table, or JSON for scripts."""
    if as_json:
        typer.echo(json.dumps([asdict(row) for row in waiting], indent=2))
        return
    table = Table("account", "event id", "occurred at", "meter", "quantity", "counted before")
    for row in waiting:
        before = f"at {row.counted_place}" if row.counted_place else ""
        table.add_row(row.account, row.event_id, row.occurred_at, row.meter, row.quantity, before)
    Console().print(table)


def print_decided(decided: Decided, *, as_json: bool) -> None:
    """What came of it; refusals by their reason."""
    if as_json:
        typer.echo(json.dumps(asdict(decided), indent=2))
        return
    typer.echo(f"{decided.decided} decided, {len(decided.refused)} refused, {decided.pending} not folded yet")
    for refused in decided.refused:
        typer.echo(f"refused: {refused}")


def _refusal(event: UsageEvent, now_ms: int) -> BadLine | None:
    try:
        check_fields(event)
    except InvalidField as exc:
        return BadLine(exc.field, exc.message)
    refusal = check_time(event.occurred_at_us, now_ms)
    if refusal is None:
        return BadLine("occurred_at", "is not older than 34 days; send it without --late")
    reason, message = refusal
    return None if reason is Reason.TOO_OLD else BadLine("occurred_at", message)


def _genesis(bootstrap_servers: str) -> GenesisApplied:
    with closing(source_records(bootstrap_servers, 0)) as records:
        for told in records:
            for fact in told.facts:
                if isinstance(fact, GenesisApplied):
                    return fact
    message = "the ledger has no genesis yet; start a worker first: meterlog worker"
    raise CommandError(message)


def _waiting(bootstrap_servers: str, partition: int, org: str | None) -> Iterator[Waiting]:
    rows: dict[tuple[str, str], tuple[UsageEvent, int]] = {}
    with closing(read(bootstrap_servers, ACCOUNTS_CHANGELOG, partition)) as records:
        for record in records:
            if record.key is None or record.value is None or not record.key.startswith(LATE.prefix):
                continue
            key, row = LATE.decode_key(record.key), LATE.decode_row(record.value)
            rows.pop(key, None)
            if row.event is not None and (org is None or key.account.partition("/")[0] == org):
                rows[key] = row.event, row.received_offset
    before = _counted_before(bootstrap_servers, partition, rows.keys()) if rows else {}
    for key_of, (event, ordinal) in rows.items():
        occurred_at = (_EPOCH + timedelta(microseconds=event.occurred_at_us)).isoformat()
        meter = event.meter or event.event_type or ""
        account, event_id = key_of
        counted = before.get(key_of)
        received_incarnation, received_offset = from_ordinal(ordinal)
        yield Waiting(
            account,
            event_id,
            occurred_at,
            meter,
            event.quantity,
            partition,
            received_offset,
            None if counted is None else counted.offset,
            received_incarnation,
            1 if counted is None else counted.incarnation,
        )


def _counted_before(
    bootstrap_servers: str, partition: int, keys: Container[tuple[str, str]]
) -> dict[tuple[str, str], Position]:
    """Ids that were counted, by the ledger, which forgets none: the fold remembers them for 35 days only."""
    found: dict[tuple[str, str], Position] = {}
    with closing(source_records(bootstrap_servers, partition)) as records:
        for told in records:
            for fact in told.facts:
                if isinstance(fact, EventCounted) and (fact.account, fact.event_id) in keys:
                    found[fact.account, fact.event_id] = told.position
    return found


def _append(bootstrap_servers: str, records: Sequence[tuple[str, bytes]]) -> list[tuple[int, int, str]]:
    """Partition, offset and account of each record. Raises CommandError where Kafka did not acknowledge all."""
    places: list[tuple[int, int, str]] = []
    failed: list[str] = []

    def note(error: KafkaError | None, message: Message) -> None:
        if error is not None:
            failed.append(error.str())
        else:
            places.append((message.partition(), message.offset(), message.key().decode()))

    producer = Producer(
        {
            "bootstrap.servers": bootstrap_servers,
            "enable.idempotence": True,
            "partitioner": "murmur2_random",
            "message.timeout.ms": round(_TIMEOUT_S * 1_000),
            "log_level": 0,
        }
    )
    for account, value in records:
        producer.produce(USAGE_EVENTS, value, account.encode(), on_delivery=note)
        producer.poll(0)
    if producer.flush(_TIMEOUT_S + 5) or failed:
        message = (
            f"Kafka at {bootstrap_servers} did not acknowledge: {failed[:1]}; decide again: what was decided is refused"
        )
        raise CommandError(message)
    return places


def _outcomes(bootstrap_servers: str, starts: dict[int, int], places: list[tuple[int, int, str]]) -> Decided:
    left = {(partition, offset): account for partition, offset, account in places}
    decided, refused = 0, []
    deadline_s = time.monotonic() + _TIMEOUT_S
    while True:
        for partition in {partition for partition, _ in left}:
            with closing(source_records(bootstrap_servers, partition, starts[partition])) as records:
                for told in records:
                    account = left.pop((partition, told.position.offset), None)
                    if account is None:
                        continue
                    decided += any(isinstance(fact, LateApproved | LateRejected) for fact in told.facts)
                    refused += [
                        f"{account}: {fact.reason}: {fact.message}"
                        for fact in told.facts
                        if isinstance(fact, CommandRefused)
                    ]
        if not left or time.monotonic() >= deadline_s:
            return Decided(decided, tuple(refused), len(left))
        time.sleep(_POLL_S)

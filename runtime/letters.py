"""What a dead letter says, and what would come of its record if it came again now. Nothing here reads Kafka."""

import json
from enum import StrEnum
from typing import Any, Final, NamedTuple, assert_never

import msgspec

from billing.accounts.types import parse_account
from billing.catalog.types import Catalog
from billing.errors import InvalidField
from billing.facts import CommandRefused, EventCounted, EventRejected, Reason
from billing.fold import decide
from billing.records import Command, Genesis, Logged, Position, Tick, Unreadable, UsageEvent
from billing.routing import partition_of
from billing.state import MemoryState, PartitionRow
from runtime.errors import CommandError
from schemas.codec import DeadLetter, decode_record
from schemas.timestamps import timestamp

__all__ = [
    "ADVICE",
    "REPLAY_HEADER",
    "Letter",
    "LetterId",
    "Original",
    "Prospect",
    "Selection",
    "Verdict",
    "describe",
    "home_of",
    "org_of",
    "parse_id",
    "prospect_of",
    "summarise",
]

REPLAY_HEADER: Final = "meterlog-replay-of"
"""On a record that was appended again: the position of the one that was refused."""
_SHOWN_BYTES_MAX: Final = 4_096

ADVICE: Final[dict[Reason, str]] = {
    Reason.UNREADABLE: "mend the producer: Avro in single-object encoding with a published schema, or send over HTTP",
    Reason.MISROUTED: "replay it: it goes to its key's partition; then set the producer's partitioner to murmur2_random",
    Reason.KEY_MISMATCH: "mend the producer: the record's key must be org/customer_id of the event in it; send it again",
    Reason.INVALID_FIELD: "mend the field that is named, and send the event again; the refused one left no id behind",
    Reason.UNKNOWN_CUSTOMER: "create the customer, then replay it",
    Reason.UNKNOWN_METER: "add the meter or the event type to the catalog, then replay it; or mend the producer",
    Reason.IN_FUTURE: "replay it once its time has come; then set the producer's clock",
    Reason.TOO_OLD: "send it as late usage, for a person to approve: meterlog events send --late",
    Reason.ID_CONFLICT: "if it is another event, send it under an id of its own; if it is the same, nothing is missing",
    Reason.CLOSED_PERIOD: "it waits in the late-usage lane for a person to approve",
    Reason.FAILED_CALL: "nothing: the call failed, and failed calls are not billed",
    Reason.METER_NOT_ENABLED: "name the meter in the customer's plan, then replay it",
    Reason.UNSIGNED: "nothing, if nobody meant to send a command; else sign it with this deployment's key",
    Reason.STALE: "a command came too late, or its effect was had: give it again where the message says so",
    Reason.QUARANTINED: "mend what made it stop the fold, release the account, then replay it",
}
"""What one can do about each reason, of a usage event; of a command, about those that no event has."""
_COMMAND_ADVICE: Final = "mend what the message names, and give the command again: it is not replayed"


class LetterId(NamedTuple):
    """Where the refused record lay; `incarnation` is None where the person named none."""

    incarnation: int | None
    partition: int
    offset: int

    def __str__(self) -> str:
        return "/".join(str(part) for part in self if part is not None)


class Letter(NamedTuple):
    """A dead letter, and where its record was appended again: (partition, offset), or None."""

    letter: DeadLetter
    replayed_to: tuple[int, int] | None = None

    @property
    def id(self) -> LetterId:
        return LetterId(self.letter.incarnation, self.letter.partition, self.letter.offset)


class Original(NamedTuple):
    """The refused record, whole."""

    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]


class Selection(NamedTuple):
    """Which letters are meant; what is None or empty leaves none out."""

    ids: tuple[LetterId, ...] = ()
    reason: Reason | None = None
    org: str | None = None
    since_ms: int | None = None
    """Appended then or later."""

    def takes(self, letter: DeadLetter) -> bool:
        named = not self.ids or any(
            (i.partition, i.offset) == (letter.partition, letter.offset) and i.incarnation in (None, letter.incarnation)
            for i in self.ids
        )
        return (
            named
            and self.reason in (None, letter.reason)
            and self.org in (None, org_of(letter.key))
            and (self.since_ms is None or letter.append_ms >= self.since_ms)
        )


class Verdict(StrEnum):
    """What would come of a record that came again now."""

    COUNTS = "counts"
    """It counts, or is a duplicate where its id was counted meanwhile."""
    REFUSED = "refused"
    """It would be refused again."""
    OPEN = "open"
    """Only the fold's state can tell."""


class Prospect(NamedTuple):
    verdict: Verdict
    message: str


def parse_id(text: str) -> LetterId:
    """`PARTITION/OFFSET`, or `INCARNATION/PARTITION/OFFSET` as `list` shows it. Raises CommandError."""
    parts = text.split("/")
    if len(parts) not in (2, 3) or not all(part.isascii() and part.isdigit() for part in parts):
        message = f"{text[:80]!r} names no dead letter; give PARTITION/OFFSET, as `meterlog dead-letters list` shows it"
        raise CommandError(message)
    *incarnation, partition, offset = (int(part) for part in parts)
    return LetterId(incarnation[0] if incarnation else None, partition, offset)


def org_of(key: bytes | None) -> str | None:
    """The organisation that a key names, or None where it names none."""
    try:
        return parse_account(key).org
    except InvalidField:
        return None


def home_of(original: Original, letter: DeadLetter, partition_count: int) -> int:
    """The partition on which the fold takes the record; one whose key names nobody stays where it lay."""
    if original.key is None or org_of(original.key) is None:
        return letter.partition
    return partition_of(original.key, partition_count)


def prospect_of(
    letter: DeadLetter, original: Original, catalog: Catalog, partition_count: int, now_ms: int
) -> Prospect:
    """What would come of the record, were it appended now: the fold's own rules, for a customer that nothing is known of."""
    if isinstance(decode_record(original.value), Command):
        return Prospect(Verdict.REFUSED, "a command is answered to whoever sent it, and never obeyed later")
    match Reason(letter.reason):
        case Reason.ID_CONFLICT:
            return Prospect(Verdict.REFUSED, "id_conflict: its id is remembered for 35 days with other content")
        case Reason.QUARANTINED:
            decided = _decided(letter, original, catalog, partition_count, now_ms)
            if decided.verdict is Verdict.REFUSED:
                return decided
            return Prospect(Verdict.OPEN, "it counts if its quarantine was released, and is quarantined again if not")
        case _:
            return _decided(letter, original, catalog, partition_count, now_ms)


def _decided(letter: DeadLetter, original: Original, catalog: Catalog, partition_count: int, now_ms: int) -> Prospect:
    state = MemoryState()
    state.partition = PartitionRow("", letter.incarnation, partition_count, b"")
    position = Position(letter.incarnation, home_of(original, letter, partition_count), 1)
    try:
        facts = decide(state, catalog, Logged(decode_record(original.value), original.key, now_ms), position)
    except Exception as exc:  # noqa: BLE001 - what stops a fold here would stop it on the log
        return Prospect(Verdict.REFUSED, f"it would stop its partition: {type(exc).__name__}: {exc}")
    for fact in facts:
        match fact:
            case EventRejected() | CommandRefused():
                return Prospect(Verdict.REFUSED, f"{fact.reason}: {fact.message}")
            case EventCounted():
                return Prospect(Verdict.COUNTS, "it counts, or is a duplicate if its id was counted meanwhile")
            case _:
                pass
    return Prospect(Verdict.REFUSED, "it is no usage event")


def summarise(letter: Letter) -> dict[str, Any]:
    """One line of `list`."""
    told = letter.letter
    record = decode_record(told.value)
    return {
        "id": str(letter.id),
        "reason": told.reason,
        "field": told.field,
        "message": told.message,
        "appended_at": timestamp(told.append_ms),
        "key": _text_or_hex(told.key),
        "event_id": record.event_id if isinstance(record, UsageEvent) else None,
        "replay_of": _replay_of(tuple((header.name, header.value) for header in told.headers)),
        "replayed_to": None if letter.replayed_to is None else "{}/{}".format(*letter.replayed_to),
    }


def describe(letter: Letter, original: Original, prospect: Prospect) -> dict[str, Any]:
    """Everything that can be said of a letter, for `show`."""
    reason = Reason(letter.letter.reason)
    is_command = isinstance(decode_record(original.value), Command) and reason is not Reason.UNSIGNED
    return {
        **summarise(letter),
        "what_to_do": _COMMAND_ADVICE if is_command else ADVICE[reason],
        "if_replayed_now": {"verdict": str(prospect.verdict), "message": prospect.message},
        "headers": [{"name": name, "value": _text_or_hex(value)} for name, value in original.headers],
        "record": _record(original.value),
    }


def _record(value: bytes | None) -> dict[str, Any]:
    """The record's kind and fields; of one that cannot be read, why, and its bytes as text or hex."""
    match decode_record(value):
        case Unreadable(detail):
            return {"kind": "unreadable", "why": detail, **_raw(value or b"")}
        case UsageEvent() as event:
            return {"kind": "usage event", **_plain(event)}
        case Command() as command:
            return {"kind": "command", **_plain(command)}
        case Tick() | Genesis() as other:
            return {"kind": type(other).__name__.lower(), **_plain(other)}
        case never:
            assert_never(never)


def _plain(record: msgspec.Struct) -> dict[str, Any]:
    fields = msgspec.structs.asdict(record)
    if "occurred_at_us" in fields:
        fields["occurred_at"] = _moment(fields["occurred_at_us"])
    return {name: _text_or_hex(item) if isinstance(item, bytes) else item for name, item in fields.items()}


def _moment(at_us: int) -> str | None:
    """RFC 3339, or None for a time that no calendar has: such are refused, and shown here."""
    try:
        return timestamp(at_us // 1_000)
    except (ValueError, OverflowError, OSError):
        return None


def _raw(value: bytes) -> dict[str, Any]:
    shown = value[:_SHOWN_BYTES_MAX]
    found: dict[str, Any] = {"size_bytes": len(value)}
    if len(shown) < len(value):
        found["shown_bytes"] = len(shown)
    try:
        text = shown.decode()
    except UnicodeDecodeError:
        return found | {"hex": shown.hex()}
    try:
        return found | {"json": json.loads(text)}
    except (ValueError, RecursionError):
        return found | {"text": text}


def _replay_of(headers: tuple[tuple[str, bytes | None], ...]) -> str | None:
    """The letter that this record was a replay of, by its last such header."""
    found = [value for name, value in headers if name == REPLAY_HEADER and value is not None]
    return _text_or_hex(found[-1]) if found else None


def _text_or_hex(data: bytes | None) -> str | None:
    if data is None:
        return None
    shown = data[:_SHOWN_BYTES_MAX]
    try:
        return shown.decode()
    except UnicodeDecodeError:
        return f"hex:{shown.hex()}"

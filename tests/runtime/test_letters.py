"""What a dead letter says, and what would come of its record now: by the fold's own rules."""

from __future__ import annotations

import json

import msgspec
import pytest

from billing.catalog.types import Catalog
from billing.facts import Reason
from billing.records import Command, Tick, UsageEvent
from billing.routing import partition_of
from runtime.errors import CommandError
from runtime.letters import (
    ADVICE,
    Letter,
    LetterId,
    Original,
    Prospect,
    Selection,
    Verdict,
    describe,
    home_of,
    parse_id,
    prospect_of,
)
from schemas.codec import DeadLetter, Header, encode
from tests.billing.harness import CATALOG, DAY_MS, T0_MS, usage

PARTITIONS = 8
KEY = b"acme/alice"
HOME = partition_of(KEY, PARTITIONS)
GOOD = usage("e1")
SIGNED = Command("call_begin", "d", b"r" * 16, 0, b"", "node-1", b"s" * 64)


def letter_of(
    reason: Reason, value: bytes | None = None, key: bytes | None = KEY, partition: int = HOME, **fields: object
) -> DeadLetter:
    return DeadLetter(1, partition, 7, reason, "why", T0_MS, key, value, **fields)  # type: ignore[arg-type]


def prospect(reason: Reason, event: UsageEvent, catalog: Catalog = CATALOG, key: bytes = KEY) -> Prospect:
    letter = letter_of(reason, encode(event), key)
    return prospect_of(letter, Original(letter.key, letter.value, ()), catalog, PARTITIONS, T0_MS)


@pytest.mark.parametrize(
    ("reason", "event", "verdict", "says"),
    [
        pytest.param(Reason.MISROUTED, GOOD, "counts", "it counts", id="a misrouted one counts where it belongs"),
        pytest.param(Reason.UNREADABLE, GOOD, "counts", "it counts", id="one of a schema that is known by now"),
        pytest.param(
            Reason.IN_FUTURE, usage("e", T0_MS + 1_000), "counts", "it counts", id="a time that has nearly come"
        ),
        pytest.param(
            Reason.IN_FUTURE, usage("e", T0_MS + DAY_MS), "refused", "in_future: ", id="a time that has not come"
        ),
        pytest.param(Reason.TOO_OLD, usage("e", T0_MS - 35 * DAY_MS), "refused", "too_old: ", id="older than ever"),
        pytest.param(
            Reason.UNKNOWN_METER, usage("e", meter="sips"), "counts", "it counts", id="a meter that the catalog has now"
        ),
        pytest.param(
            Reason.UNKNOWN_METER, usage("e", meter="x"), "refused", "unknown_meter: ", id="a meter that it has not"
        ),
        pytest.param(
            Reason.METER_NOT_ENABLED,
            usage("e", meter="reports"),
            "counts",
            "it counts",
            id="a meter that the plan names",
        ),
        pytest.param(
            Reason.METER_NOT_ENABLED,
            usage("e", meter="drafts"),
            "refused",
            "meter_not_enabled",
            id="one that it does not",
        ),
        pytest.param(
            Reason.INVALID_FIELD, usage("e", quantity="-1"), "refused", "invalid_field", id="a field at fault"
        ),
        pytest.param(Reason.KEY_MISMATCH, usage("e", customer_id="bob"), "refused", "key_mismatch", id="another's key"),
        pytest.param(Reason.ID_CONFLICT, GOOD, "refused", "id_conflict", id="a used id"),
        pytest.param(Reason.QUARANTINED, GOOD, "open", "if its quarantine was released", id="a quarantined account"),
        pytest.param(
            Reason.QUARANTINED,
            usage("e", quantity="x"),
            "refused",
            "invalid_field",
            id="what quarantine hid a fault of",
        ),
    ],
)
def test_what_would_come_of_a_record(reason: Reason, event: UsageEvent, verdict: str, says: str) -> None:
    found = prospect(reason, event)
    assert found.verdict == verdict
    assert says in found.message


def test_a_customer_that_the_catalog_does_not_create_is_refused_until_it_does() -> None:
    closed = msgspec.structs.replace(CATALOG, create_customers=False)
    assert prospect(Reason.UNKNOWN_CUSTOMER, GOOD, closed).verdict is Verdict.REFUSED
    assert prospect(Reason.UNKNOWN_CUSTOMER, GOOD).verdict is Verdict.COUNTS


def test_what_would_stop_its_partition_is_never_sent_there_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        message = "a bug"
        raise ZeroDivisionError(message)

    monkeypatch.setattr("runtime.letters.decide", broken)
    found = prospect(Reason.QUARANTINED, GOOD)
    assert found == Prospect(Verdict.REFUSED, "it would stop its partition: ZeroDivisionError: a bug")


@pytest.mark.parametrize("reason", [Reason.UNSIGNED, Reason.STALE, Reason.UNKNOWN_METER, Reason.QUARANTINED])
def test_a_command_is_never_sent_again(reason: Reason) -> None:
    """Late usage is refused for what an event is refused for, and what helps an event does not help it."""
    letter = letter_of(reason, encode(SIGNED))
    original = Original(KEY, letter.value, ())
    found = prospect_of(letter, original, CATALOG, PARTITIONS, T0_MS)
    assert found == Prospect(Verdict.REFUSED, "a command is answered to whoever sent it, and never obeyed later")
    assert "then replay" not in describe(Letter(letter), original, found)["what_to_do"]


def test_what_is_no_usage_event_is_never_sent_again() -> None:
    """A tick has no letter; a record that became readable as one must not be put on the log by this door."""
    letter = letter_of(Reason.UNREADABLE, encode(Tick(0)))
    found = prospect_of(letter, Original(KEY, letter.value, ()), CATALOG, PARTITIONS, T0_MS)
    assert found == Prospect(Verdict.REFUSED, "it is no usage event")


@pytest.mark.parametrize(
    ("key", "home"),
    [(KEY, HOME), (b"nobody", 3), (None, 3), (b"acme/" + b"k" * 900_000, 3)],
    ids=["by its key", "a key that names nobody", "no key", "a key that is too long to be hashed"],
)
def test_where_a_record_belongs(key: bytes | None, home: int) -> None:
    letter = letter_of(Reason.UNREADABLE, b"", key, 3)
    assert home_of(Original(key, b"", ()), letter, PARTITIONS) == home


def test_there_is_advice_for_every_reason() -> None:
    assert set(ADVICE) == set(Reason)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (encode(GOOD), {"kind": "usage event", "event_id": "e1", "occurred_at": "2026-03-01T00:00:00.000Z"}),
        (encode(SIGNED), {"kind": "command", "type": "call_begin", "signature": "s" * 64}),
        (b'{"event_id": "a"}', {"kind": "unreadable", "size_bytes": 17, "json": {"event_id": "a"}}),
        (b"id;quantity", {"kind": "unreadable", "text": "id;quantity"}),
        (b"\xff\x00", {"kind": "unreadable", "hex": "ff00"}),
        (b"x" * 5_000, {"kind": "unreadable", "size_bytes": 5_000, "shown_bytes": 4_096}),
        (None, {"kind": "unreadable", "why": "the record has no value", "size_bytes": 0}),
    ],
    ids=["a usage event", "a command", "JSON", "text", "bytes", "much text", "nothing"],
)
def test_a_record_is_shown_as_far_as_it_can_be_read(value: bytes | None, shown: dict[str, object]) -> None:
    letter = letter_of(Reason.UNREADABLE, value, b"\xff", headers=(Header("meterlog-replay-of", b"1/2/3"),))
    original = Original(letter.key, value, (("odd", b"\xfe"), ("none", None)))
    found = json.loads(json.dumps(describe(Letter(letter, (3, 9)), original, Prospect(Verdict.OPEN, "?"))))
    assert shown.items() <= found["record"].items()
    assert (found["id"], found["key"], found["replay_of"], found["replayed_to"]) == (
        f"1/{HOME}/7",
        "hex:ff",
        "1/2/3",
        "3/9",
    )
    assert found["headers"] == [{"name": "odd", "value": "hex:fe"}, {"name": "none", "value": None}]


def test_every_time_that_an_event_can_bear_is_shown() -> None:
    letter = letter_of(Reason.INVALID_FIELD, encode(usage("e", (1 << 63) // 1_000 - 1)))
    found = describe(Letter(letter), Original(KEY, letter.value, ()), Prospect(Verdict.REFUSED, ""))
    assert found["record"]["occurred_at"] is None


@pytest.mark.parametrize("text", ["", "7", "1/2/3/4", "a/b", "1/-2", "1/\u0662"])
def test_an_id_that_is_none_is_refused_by_name(text: str) -> None:
    with pytest.raises(CommandError, match="names no dead letter; give PARTITION/OFFSET"):
        parse_id(text)


@pytest.mark.parametrize(
    ("selection", "taken"),
    [
        (Selection(), True),
        (Selection(ids=(LetterId(None, HOME, 7),)), True),
        (Selection(ids=(LetterId(2, HOME, 7),)), False),
        (Selection(ids=(LetterId(None, HOME, 8), LetterId(1, HOME, 7))), True),
        (Selection(reason=Reason.MISROUTED), True),
        (Selection(reason=Reason.TOO_OLD), False),
        (Selection(org="acme"), True),
        (Selection(org="acm"), False),
        (Selection(since_ms=T0_MS), True),
        (Selection(since_ms=T0_MS + 1), False),
    ],
)
def test_which_letters_are_meant(selection: Selection, taken: bool) -> None:
    assert selection.takes(letter_of(Reason.MISROUTED)) is taken

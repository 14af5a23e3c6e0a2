"""What lies on `stripe-intents` stays readable, and says what Stripe has."""

from __future__ import annotations

import msgspec
import pytest

from schemas.intents import (
    Intent,
    Outcome,
    RowVersion,
    Status,
    Target,
    Window,
    accepted_totals,
    decode_intent_record,
    encode_intent_record,
    intent_key,
    intent_partition,
    reduce_intents,
)

WINDOW = Window("cus_1", "tokens", 500_000)
INTENT = Intent(
    version=1,
    target=Target.LIVE,
    stripe_customer="cus_1",
    stripe_event_name="tokens",
    hour=500_000,
    identifier="ml_1",
    quantity="12.5",
    timestamp_s=1_800_000_003,
    series=0,
    send_number=3,
    decided_at_ms=1_800_000_100_000,
    rows=(RowVersion("org/ada", 1, 2, 77),),
)


def outcome(status: Status = Status.ACCEPTED, identifier: str = "ml_1", quantity: str = "12.5") -> Outcome:
    return Outcome(
        version=1,
        target=Target.LIVE,
        stripe_customer="cus_1",
        stripe_event_name="tokens",
        hour=500_000,
        identifier=identifier,
        status=status,
        quantity=quantity,
        series=0,
        code=None,
        message=None,
        livemode=True,
        request_id="req_1",
        at_ms=1_800_000_100_500,
    )


def test_records_of_version_1_have_these_bytes() -> None:
    assert msgspec.msgpack.decode(encode_intent_record(INTENT)) == [
        1, 1, "live", "cus_1", "tokens", 500_000, "ml_1", "12.5", 1_800_000_003, 0, 3, 1_800_000_100_000,
        [["org/ada", 1, 2, 77]],
    ]  # fmt: skip
    assert msgspec.msgpack.decode(encode_intent_record(outcome())) == [
        2, 1, "live", "cus_1", "tokens", 500_000, "ml_1", "accepted", "12.5", 0, None, None, True, "req_1",
        1_800_000_100_500,
    ]  # fmt: skip


@pytest.mark.parametrize("record", [INTENT, outcome(), outcome(Status.REFUSED), outcome(Status.UNLINKED)])
def test_a_record_reads_as_it_was_written(record: Intent | Outcome) -> None:
    assert decode_intent_record(encode_intent_record(record)) == record


def test_a_later_versions_further_fields_are_passed_over() -> None:
    longer = msgspec.msgpack.encode([*msgspec.msgpack.decode(encode_intent_record(INTENT)), "new"])
    assert decode_intent_record(longer) == INTENT


def test_what_concerns_a_window_lies_on_one_partition() -> None:
    assert intent_key(INTENT) == b"cus_1\x00tokens\x00500000\x00ml_1"
    assert intent_key(outcome()) == intent_key(INTENT)
    later = msgspec.structs.replace(INTENT, hour=500_001, identifier="ml_2")
    assert {intent_partition(record, 12) for record in (INTENT, outcome(), later)} == {intent_partition(INTENT, 12)}


def test_the_last_accepted_value_of_a_window_is_what_stripe_has() -> None:
    second = msgspec.structs.replace(INTENT, identifier="ml_2", quantity="13")
    records: list[Intent | Outcome] = [INTENT, outcome(), second, outcome(Status.REFUSED, "ml_2", "13")]
    assert accepted_totals(records, Target.LIVE) == {WINDOW: "12.5"}
    told = reduce_intents(records, Target.LIVE)
    assert (set(told.refused), told.pending_count) == ({WINDOW}, 0)
    third = msgspec.structs.replace(INTENT, identifier="ml_3", quantity="14")
    told = reduce_intents([*records, third], Target.LIVE)
    assert (set(told.pending), told.pending_count) == ({"ml_3"}, 1)
    records = [*records, third, outcome(identifier="ml_3", quantity="14")]
    assert accepted_totals(records, Target.LIVE) == {WINDOW: "14"}
    assert reduce_intents(records, Target.LIVE).refused == {}


def test_what_one_target_was_told_says_nothing_about_another() -> None:
    assert accepted_totals([INTENT, outcome()], Target.TEST) == {}
    assert reduce_intents([INTENT], Target.DOUBLE).pending_count == 0

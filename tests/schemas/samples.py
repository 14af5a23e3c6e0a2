"""One record of each kind that lies on a topic, with every field set to something that shows its type's edge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from billing.catalog.types import PlanRef
from billing.facts import (
    AccountOpened,
    AccountSnapshot,
    BehaviourSwitched,
    CommandRefused,
    Entry,
    EventCounted,
    EventDuplicate,
    EventRejected,
    Fact,
    GenesisApplied,
    GenesisRefused,
    LateApproved,
    LateReceived,
    LateRejected,
    LateRepeated,
    LateSnapshot,
    OrderApplied,
    OrderEffect,
    OrderHonoured,
    OrderRepeated,
    PairsCapped,
    Reason,
    SnapshotBegun,
    SnapshotDone,
    StripeHourClosed,
    Ticked,
    TotalClosed,
)
from billing.records import Command, Genesis, Tick, UsageEvent
from billing.state import (
    Account,
    Counter,
    Late,
    LateKey,
    PairsKey,
    PartitionRow,
    Quarantine,
    Seen,
    SeenKey,
    StripeHour,
    StripeHourKey,
    Total,
    TotalKey,
)
from schemas.codec import ApiKey, DeadLetter, Encodable, Header, LetterReplayed

__all__ = ["AVRO", "FACTS", "GOLDEN", "ROWS", "golden"]

GOLDEN = Path(__file__).parent / "golden"

AVRO: dict[str, Encodable] = {
    "usage_event": UsageEvent(
        event_id="evt-1",
        occurred_at_us=1_772_323_200_000_001,
        customer_id="\u00e9l\u00e8ve",
        meter=None,
        event_type="llm.call",
        quantity="2.50",
        status="failed",
        feature="chat",
        model="m1",
        tags=("a", "b"),
        properties={"b": "2", "\u00e9": "3"},
        input_tokens=10**15,
        output_tokens=0,
        cached_tokens=None,
        reasoning_tokens=-1,
    ),
    "tick": Tick(1_772_323_200_000),
    "genesis": Genesis("deployment", 7, 12, bytes(range(32))),
    "command": Command("call_begin", "deployment", b"r" * 16, 1_772_323_200_000, b"\x00\xff", "node-1", b"s" * 64),
    "api_key": ApiKey("key-1", bytes(range(32)), "acme", ("ingest", "read"), 1_772_323_200_000, None),
    "dead_letter": DeadLetter(
        incarnation=1,
        partition=3,
        offset=2**40,
        reason="unreadable",
        message="no record",
        append_ms=1_772_323_200_000,
        key=b"acme/\xff",
        value=None,
        field="key",
        headers=(Header("traceparent", b"00-1"), Header("empty", None)),
    ),
    "letter_replayed": LetterReplayed(2, 3, 2**40, 0, 2**41, 1_772_323_200_000),
}
"""By the schema's name."""

DIGEST = bytes(range(16))
LATE_EVENT = UsageEvent(
    "evt-1",
    1_769_000_000_000_001,
    "alice",
    "calls",
    quantity="2.5",
    tags=("a", "b"),
    properties={"b": "2", "\u00e9": "3"},
    input_tokens=10**15,
)
FACTS: dict[str, Fact] = {
    "event_counted": EventCounted(
        account="acme/\u00e9l\u00e8ve",
        event_id="evt-1",
        occurred_at_us=1_772_323_200_000_001,
        payload_digest=DIGEST,
        feature="chat",
        model="",
        hour=492_312,
        booking_day=20_513,
        billing_start_s=1_772_323_200,
        stripe_customer="cus_1",
        entries=(Entry("calls", "1", "calls"), Entry("tokens", "999999999999999999.999999999", None)),
    ),
    "event_duplicate": EventDuplicate("acme/alice", "evt-1", 2**40),
    "event_rejected": EventRejected(Reason.FAILED_CALL, "status", "not billed", "acme/alice", "evt-1", DIGEST),
    "account_opened": AccountOpened("acme/alice", PlanRef("team", 3), "acme/alice"),
    "pairs_capped": PairsCapped("acme/alice", 20_513),
    "ticked": Ticked(more=True),
    "total_closed": TotalClosed(
        "acme/alice", 1_772_323_200, "calls", "chat", "", 492_312, 20_513, "2.5", 2, DIGEST, 2**40
    ),
    "stripe_hour_closed": StripeHourClosed("acme/alice", "cus_1", "calls", 492_312, "2.5", 2**40),
    "genesis_applied": GenesisApplied("deployment", 7, 12, bytes(range(32))),
    "genesis_refused": GenesisRefused("no"),
    "command_refused": CommandRefused(Reason.UNSIGNED, "call_begin", "no"),
    "order_honoured": OrderHonoured(
        b"\xc3\x01\x00\xff", b"acme/alice", 2**40, OrderEffect("quarantine_account", "acme/alice", 1_772_323_200_000)
    ),
    "order_applied": OrderApplied(OrderEffect("time", first_offset=2**40, last_offset=2**41)),
    "behaviour_switched": BehaviourSwitched(2),
    "order_repeated": OrderRepeated("resume"),
    "late_received": LateReceived("acme/alice", DIGEST, LATE_EVENT),
    "late_repeated": LateRepeated("acme/alice", "evt-1", 2**40),
    "late_approved": LateApproved("acme/alice", DIGEST, LATE_EVENT, 2**40, (Entry("calls", "2.5", "calls"),)),
    "late_rejected": LateRejected("acme/alice", "evt-1", DIGEST, 2**40),
    "snapshot_begun": SnapshotBegun(
        month_start_s=1_772_323_200,
        since_ms=1_769_212_800_000,
        deployment_id="deployment",
        incarnation=7,
        partition_count=12,
        operator_public_key=bytes(range(32)),
        behaviour_version=2,
        still=((3, 2**40),),
        honoured=(2**40 + 1,),
        quarantines=(("acme/alice", 1_772_323_200_000, True),),
    ),
    "account_snapshot": AccountSnapshot(
        "acme/alice",
        PlanRef("team", 3),
        1_772_323_200_000,
        "cus_1",
        (("calls", 1_772_323_200, "0.000000001"), ("tokens", 1_772_323_200, "1" + "0" * 21)),
        2**40,
    ),
    "late_snapshot": LateSnapshot("acme/alice", "evt-1", 2**40, DIGEST, LATE_EVENT, approved=False),
    "snapshot_done": SnapshotDone(1_772_323_200),
}

ROWS: dict[str, tuple[Any, Any]] = {
    "ACCOUNTS": (
        "acme/\u00e9l\u00e8ve",
        Account(PlanRef("team", 3), 1_772_323_200_000, "cus_1", {"calls": Counter(1_772_323_200, 10**30)}, 2**40),
    ),
    "SEEN": (SeenKey("acme/\u00e9l\u00e8ve", "evt-1"), Seen(1_772_323_200_000, 2**40, DIGEST)),
    "TOTALS": (
        TotalKey(20_513, "acme/alice", 1_772_323_200, "calls", "chat", "", 492_312),
        Total(10**30, 2, 2**128 - 1, 2**40),
    ),
    "PAIRS": (PairsKey(20_513, "acme/alice"), frozenset({("chat", ""), ("~other", "~other"), ("", "\u00e9")})),
    "STRIPE_HOURS": (StripeHourKey(492_312, "acme/alice", "cus_1", "calls"), StripeHour(10**30, 2**40)),
    "LATE": (LateKey("acme/\u00e9l\u00e8ve", "evt-1"), Late(2**40, DIGEST, LATE_EVENT)),
    "QUARANTINES": ("acme/\u00e9l\u00e8ve", Quarantine(1_772_323_200_000, aside=True)),
}
"""By the codec's name: a key and its row."""

PARTITION = PartitionRow("deployment", 7, 12, bytes(range(32)))
ORDERED = PartitionRow("deployment", 7, 12, bytes(range(32)), 2, ((2**40, 2**41),), (2**40 + 5, 2**40 + 7))
"""A partition that orders have changed."""


def golden(name: str) -> bytes:
    """The bytes that were once written, and must stay readable."""
    return bytes.fromhex((GOLDEN / f"{name}.hex").read_text(encoding="ascii"))

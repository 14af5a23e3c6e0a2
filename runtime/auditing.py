"""Runs the audit against a deployment: waits for fold and sinks, reads every book, prints the equation."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any, TypeVar

from confluent_kafka import Consumer, TopicPartition
from rich.console import Console
from rich.table import Table

from billing.catalog.builtin import BUILTIN_CATALOG
from billing.errors import UnknownBehaviour
from billing.quantities import plain
from runtime.audit import Audit, UsageKey, agree, audit_partition, compare
from runtime.errors import CommandError
from runtime.ledger_log import incarnation_of
from runtime.logs import Range, partitions_of, range_of, read
from runtime.settings import Settings
from runtime.stripe_books import accepted_usage, covered_from_hour, name_window, reported_usage, untold_totals
from runtime.usage import clickhouse_client
from schemas.topics import FOLD_GROUP, LEDGER, USAGE_EVENTS

__all__ = ["print_audit", "run_audit"]

_POLL_S = 0.25
_KAFKA_TIMEOUT_S = 15.0
_EVENTS_IN_CLICKHOUSE = """
    SELECT concat(org, '/', customer_id) AS account, meter, sum(quantity)
    FROM meterlog.events
    WHERE (incarnation, offset) < (
        transform(partition, {partitions:Array(UInt32)}, {incarnations:Array(UInt64)}, 0),
        transform(partition, {partitions:Array(UInt32)}, {ends:Array(UInt64)}, 0)
    )
    GROUP BY account, meter
"""
_TOTALS_IN_CLICKHOUSE = """
    SELECT concat(org, '/', customer_id) AS account, meter, sum(quantity)
    FROM meterlog.usage
    GROUP BY account, meter
"""

K = TypeVar("K")


def run_audit(settings: Settings, wait_s: float) -> Audit:
    """Audit what the log holds now. What is still on its way is waited for, and a difference after that."""
    deadline_s = time.monotonic() + wait_s
    while True:
        ranges = _ranges(settings)
        _wait_for_fold(settings, ranges, deadline_s)
        incarnations = [incarnation_of(settings.bootstrap_servers, partition) for partition in range(len(ranges))]
        audit = _audit_logs(settings, ranges, incarnations)
        _compare_books(settings, audit, ranges, incarnations, deadline_s)
        if audit.holds or time.monotonic() >= deadline_s or _ranges(settings) == ranges:
            return audit


def print_audit(audit: Audit, *, as_json: bool) -> None:
    """The equation per partition and in all, and every difference."""
    console = Console()
    if as_json:
        console.out(json.dumps(_as_json(audit), indent=2), highlight=False)
        return
    console.print(_equation_table(audit))
    console.out(_equation(audit) + _reasons(audit.rejected), highlight=False)
    for line in _beside_the_equation(audit):
        console.out(line, highlight=False)
    if audit.differences:
        table = Table("book", "where", title="differences")
        table.add_column("expected", justify="right")
        table.add_column("found", justify="right")
        for difference in audit.differences:
            table.add_row(*difference)
        console.print(table)
    for book in audit.not_compared:
        console.out(f"not compared: {book}", highlight=False)
    console.out("every book agrees" if audit.holds else "the audit FAILS", highlight=False)


def _ranges(settings: Settings) -> list[Range]:
    servers = settings.bootstrap_servers
    return [range_of(servers, USAGE_EVENTS, p) for p in range(partitions_of(servers, USAGE_EVENTS))]


def _wait_for_fold(settings: Settings, ranges: list[Range], deadline_s: float) -> None:
    """Until every record of the ranges is folded, or the deadline: what then lacks a fact is a difference."""
    consumer = Consumer({"bootstrap.servers": settings.bootstrap_servers, "group.id": FOLD_GROUP})
    with closing(consumer):
        asked = [TopicPartition(USAGE_EVENTS, p) for p in range(len(ranges))]
        while time.monotonic() < deadline_s:
            committed = consumer.committed(asked, timeout=_KAFKA_TIMEOUT_S)
            if not any(_is_behind(settings, found, ranges[found.partition]) for found in committed):
                return
            time.sleep(_POLL_S)


def _is_behind(settings: Settings, committed: TopicPartition, held: Range) -> bool:
    """Whether a record of the range is not folded yet. The range's end alone does not tell: markers take offsets too."""
    start = max(committed.offset, held.start)
    if start >= held.end:
        return False
    records = read(settings.bootstrap_servers, USAGE_EVENTS, committed.partition, start, held.end)
    with closing(records):
        return next(records, None) is not None


def _audit_logs(settings: Settings, ranges: list[Range], incarnations: list[int]) -> Audit:
    audit = Audit()
    servers = settings.bootstrap_servers
    for partition, held in enumerate(ranges):
        log = read(servers, USAGE_EVENTS, partition, held.start, held.end)
        ledger = read(servers, LEDGER, partition)
        try:
            audit_partition(audit, BUILTIN_CATALOG, partition, log, ledger, held, incarnations[partition])
        except UnknownBehaviour as exc:
            message = f"usage-events/{partition}: {exc}; run the audit with the release that the workers run"
            raise CommandError(message) from exc
    return audit


def _compare_books(
    settings: Settings, audit: Audit, ranges: list[Range], incarnations: list[int], deadline_s: float
) -> None:
    """Each book against the ledger; one that is behind is asked again until the deadline.

    Raw events are compared at the place where the audit ends. The other books are totals of all that was ever counted:
    there, customers with events after that place are left out.
    """
    usage = {key: used.quantity_nano for key, used in audit.usage.items()}
    cut = {"partitions": list(range(len(ranges))), "ends": [held.end for held in ranges], "incarnations": incarnations}
    with closing(clickhouse_client(settings)) as client:

        def events() -> dict[UsageKey, int]:
            return _book(client, _EVENTS_IN_CLICKHOUSE, cut)

        def totals() -> dict[UsageKey, int]:
            return _book(client, _TOTALS_IN_CLICKHOUSE, {})

        found = _settled(events, usage, deadline_s)
        compare(audit, "clickhouse events", usage, found, _name_usage)
        found = _settled(totals, usage, deadline_s)
        moved = _accounts_after(settings, ranges)
        expected, told = ({k: n for k, n in book.items() if k.account not in moved} for book in (usage, found))
        compare(audit, "clickhouse totals", expected, told, _name_usage)
    if settings.tells_stripe:
        _compare_stripe(settings, audit, ranges, deadline_s)
    else:
        audit.not_compared.append("Stripe: neither a key nor a double is set (METERLOG_STRIPE_API_KEY)")


def _compare_stripe(settings: Settings, audit: Audit, ranges: list[Range], deadline_s: float) -> None:
    """Both of Stripe's books, by customer, meter and hour: sums over hours would hide errors that cancel out."""
    for where, book in (("stripe intents", accepted_usage), ("stripe meters", reported_usage)):
        found = _settled(lambda: book(settings), audit.stripe, deadline_s)  # noqa: B023 - called within the round
        since, moved = covered_from_hour(settings), _accounts_after(settings, ranges)
        expected, told = (
            {w: n for w, n in windows.items() if w.stripe_customer not in moved and (since is None or w.hour >= since)}
            for windows in (audit.stripe, found)
        )
        compare(audit, where, expected, told, name_window)
    if audit.differences:
        audit.differences += untold_totals(settings)


def _settled(book: Callable[[], dict[K, int]], expected: dict[K, int], deadline_s: float) -> dict[K, int]:
    """The book once it says what is expected, or what it says at the deadline."""
    found = book()
    while not agree(expected, found) and time.monotonic() < deadline_s:
        time.sleep(_POLL_S)
        found = book()
    return found


def _accounts_after(settings: Settings, ranges: list[Range]) -> set[str]:
    """Whose events came after the audit's end: their totals have moved on."""
    return {
        record.key.decode(errors="replace")
        for partition, held in enumerate(ranges)
        for record in read(settings.bootstrap_servers, USAGE_EVENTS, partition, held.end)
        if record.key is not None
    }


def _name_usage(key: UsageKey) -> str:
    return f"{key.account} {key.meter}"


def _book(client: Any, query: str, parameters: dict[str, Any]) -> dict[UsageKey, int]:
    rows = client.query(query, parameters=parameters).result_rows
    return {UsageKey(account, meter): int(quantity.scaleb(9)) for account, meter, quantity in rows}


def _equation_table(audit: Audit) -> Table:
    table = Table(title="accepted = counted + duplicate + rejected")
    for name in ("partition", "accepted", "counted", "duplicate", "rejected", "holds"):
        table.add_column(name, justify="right")
    for line in audit.partitions:
        columns = (line.accepted, line.counted, line.duplicate, line.rejected.total())
        table.add_row(str(line.partition), *(f"{n:,}" for n in columns), "yes" if line.holds else "NO")
    return table


def _equation(audit: Audit) -> str:
    accepted, counted, duplicate = (audit.sum_of(name) for name in ("accepted", "counted", "duplicate"))
    rejected = audit.rejected.total()
    sign = "=" if accepted == counted + duplicate + rejected else "≠"
    return f"accepted {accepted:,} {sign} counted {counted:,} + duplicate {duplicate:,} + rejected {rejected:,}"


def _reasons(counts: Counter[str]) -> str:
    told = ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items()))
    return f"   ({told})" if told else ""


def _beside_the_equation(audit: Audit) -> Iterator[str]:
    """What is no usage event: commands, and the late events that some of them counted."""
    decided, repeated = audit.sum_of("commands_applied"), audit.sum_of("commands_repeated")
    refused = audit.commands_refused.total()
    if commands := audit.sum_of("commands"):
        sign = "=" if commands == decided + repeated + refused else "≠"
        reasons = _reasons(audit.commands_refused)
        yield f"commands {commands:,} {sign} decided {decided:,} + repeated {repeated:,} + refused {refused:,}{reasons}"
    if approved := audit.sum_of("approved"):
        yield f"late usage approved: {approved:,}, counted beside the equation"
    for key, used in sorted(audit.stripe_untold.items()):
        events = f"{used.event_count:,} of them"
        yield f"not told to Stripe, which takes none that old: {key.account} {key.meter} {plain(used.quantity_nano)} ({events})"


def _as_json(audit: Audit) -> dict[str, Any]:
    return {
        "holds": audit.holds,
        "accepted": audit.sum_of("accepted"),
        "counted": audit.sum_of("counted"),
        "duplicate": audit.sum_of("duplicate"),
        "rejected": dict(sorted(audit.rejected.items())),
        "commands": audit.sum_of("commands"),
        "commands_applied": audit.sum_of("commands_applied"),
        "commands_repeated": audit.sum_of("commands_repeated"),
        "commands_refused": dict(sorted(audit.commands_refused.items())),
        "approved": audit.sum_of("approved"),
        "stripe_untold": [
            {
                "account": key.account,
                "meter": key.meter,
                "quantity": plain(used.quantity_nano),
                "events": used.event_count,
            }
            for key, used in sorted(audit.stripe_untold.items())
        ],
        "partitions": [
            {
                "partition": line.partition,
                "accepted": line.accepted,
                "counted": line.counted,
                "duplicate": line.duplicate,
                "rejected": dict(sorted(line.rejected.items())),
                "holds": line.holds,
            }
            for line in audit.partitions
        ],
        "usage": [
            {
                "account": key.account,
                "meter": key.meter,
                "quantity": plain(used.quantity_nano),
                "events": used.event_count,
            }
            for key, used in sorted(audit.usage.items())
        ],
        "not_compared": audit.not_compared,
        "differences": [difference._asdict() for difference in audit.differences],
    }

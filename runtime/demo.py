"""`meterlog demo`: the whole pipeline on an hour of real usage, with a kill in the middle, checked by the audit at the end."""

import json
import logging
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
from confluent_kafka import Producer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from billing.quantities import NANO
from billing.records import UsageEvent
from runtime.audit import Audit
from runtime.auditing import print_audit, run_audit
from runtime.errors import CommandError
from runtime.processes import create_api_key, now_ms
from runtime.stack import Stack
from runtime.stripe_books import accepted_usage
from runtime.trace import ORG, Feed, Sent, read_trace
from runtime.usage import clickhouse_client, usage_of
from schemas.topics import USAGE_EVENTS

__all__ = ["run_demo"]

_BATCH_EVENTS = 250
_RETRY_S = 0.2
_SEND_DEADLINE_S = 60.0
_RETRIED = (401, 503)
"""401: the API follows the keys' topic, and may read the new key a moment after the first request."""
_AUDIT_WAIT_S = 60.0
_SHOWN_CUSTOMERS = 10
_BAR_WIDTH = 30
_STRIPE_SEND_INTERVAL_S = 1.0
_KILL_AT_SHARE = 0.5
_SHOWN_QUERY = """
SELECT customer_id, sumIf(quantity, meter = 'calls') AS calls, sumIf(quantity, meter = 'tokens') AS tokens
FROM meterlog.usage
WHERE org = 'demo'
GROUP BY customer_id
ORDER BY tokens DESC, customer_id
LIMIT 10
"""


def run_demo(*, keep: bool, data_dir: Path | None, now: str | None) -> int:
    """Run it; the exit status: 0 when the equation holds and every book agrees."""
    console = Console()
    logging.getLogger("runtime").addHandler(logging.NullHandler())  # the progress tells what the supervisor does
    feed = Feed(read_trace(), _now_ms(now))
    with (
        _directory(data_dir) as directory,
        Stack(directory, api_port=0, stripe_send_interval_s=_STRIPE_SEND_INTERVAL_S) as stack,
    ):
        with _progress(console) as progress:
            _start(stack, progress)
            _send_all(stack, feed, progress)
            audit = _wait_for_books(stack, progress)
        _show_results(stack, feed, audit, console)
        if keep:
            stack.stop_on_signals()
            _show_around(stack, console)
            stack.wait()
    return 0 if audit.holds else 1


def _now_ms(text: str | None) -> int:
    if text is None:
        return now_ms()
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as exc:
        message = f"--now {text!r} is not an RFC 3339 time, such as 2026-12-01T00:00:30Z"
        raise CommandError(message) from exc
    if moment.tzinfo is None:
        message = f"--now {text!r} has no zone; add Z or an offset"
        raise CommandError(message)
    return int(moment.timestamp() * 1_000)


@contextmanager
def _directory(data_dir: Path | None) -> Iterator[Path]:
    if data_dir is not None:
        yield data_dir
        return
    with tempfile.TemporaryDirectory(prefix="meterlog-demo-") as made:
        yield Path(made)


def _progress(console: Console) -> Progress:
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=console)


def _start(stack: Stack, progress: Progress) -> None:
    parts = stack.parts
    task = progress.add_task("starting Kafka, ClickHouse, fold, sinks and API", total=len(parts))
    for _started in stack.start():
        progress.advance(task)


def _send_all(stack: Stack, feed: Feed, progress: Progress) -> None:
    """All of the feed in its order; half-way the worker is killed with SIGKILL."""
    everything = list(feed)
    task = progress.add_task("sending an hour of LLM usage", total=len(everything))
    key = create_api_key(stack.settings, ORG, "ingest,read")["key"]
    broken_door = Producer(
        {"bootstrap.servers": stack.settings.bootstrap_servers, "partitioner": "murmur2_random", "log_level": 0}
    )
    kill_at = int(len(everything) * _KILL_AT_SHARE)
    sent_count = 0
    for batch in (everything[start : start + _BATCH_EVENTS] for start in range(0, len(everything), _BATCH_EVENTS)):
        if sent_count <= kill_at < sent_count + len(batch):
            stack.kill("worker")
            progress.console.print(
                "[bold]killed the fold with SIGKILL[/bold]; it is restarted and goes on where its log says"
            )
        _send_batch(stack.api_url, key, [sent for sent in batch if sent.value is None])
        for sent in batch:
            if sent.value is not None:
                broken_door.produce(USAGE_EVENTS, sent.value, str(sent.account).encode())
        sent_count += len(batch)
        progress.update(task, completed=sent_count)
    if unsent := broken_door.flush(_SEND_DEADLINE_S):
        message = f"{unsent} records were not acknowledged by Kafka within {_SEND_DEADLINE_S:.0f} s"
        raise CommandError(message)


def _send_batch(api_url: str, key: str, batch: list[Sent]) -> None:
    """POST until it is acknowledged: a repeat of a whole batch is harmless, its events have ids."""
    body = json.dumps({"events": [_native(sent.event) for sent in batch]}).encode()
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{api_url}/v1/events", body, headers)
    deadline_s = time.monotonic() + _SEND_DEADLINE_S
    while True:
        try:
            with urllib.request.urlopen(request, timeout=_SEND_DEADLINE_S) as response:
                answer = json.load(response)
        except urllib.error.HTTPError as exc:
            if exc.code not in _RETRIED or time.monotonic() > deadline_s:
                message = f"the API answered {exc.code}: {exc.read().decode(errors='replace')[:500]}"
                raise CommandError(message) from exc
            time.sleep(_RETRY_S)
            continue
        if answer["accepted"] != len(batch):
            message = f"the API refused {answer['rejected'][:3]}"
            raise CommandError(message)
        return


def _native(event: UsageEvent) -> dict[str, Any]:
    """The event as native JSON: what is not given is left out."""
    fields = {name: value for name, value in msgspec.structs.asdict(event).items() if value not in (None, (), {})}
    occurred = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=fields.pop("occurred_at_us"))
    return {**fields, "occurred_at": occurred.isoformat().replace("+00:00", "Z")}


def _wait_for_books(stack: Stack, progress: Progress) -> Audit:
    task = progress.add_task("waiting for ledger, ClickHouse and Stripe, and auditing", total=1)
    audit = run_audit(stack.settings, _AUDIT_WAIT_S)
    progress.advance(task)
    return audit


def _show_results(stack: Stack, feed: Feed, audit: Audit, console: Console) -> None:
    console.print(
        f"\nUsage is an hour of 16 November 2023, shifted by {feed.shift_hours} hours; customers are made up."
    )
    console.print(_customers_table(stack))
    console.print("The same from ClickHouse:", _SHOWN_QUERY, highlight=False, soft_wrap=True)
    console.print(_clickhouse_table(stack))
    console.print(_stripe_table(stack))
    print_audit(audit, as_json=False)


def _customers_table(stack: Stack) -> Table:
    """`meterlog usage`, the ten largest by tokens."""
    table = Table("customer", title="usage, top 10 customers by tokens")
    table.add_column("calls", justify="right")
    table.add_column("tokens", justify="right")
    table.add_column("")
    by_customer: dict[str, dict[str, int]] = {}
    for row in usage_of(stack.settings, ORG):
        by_customer.setdefault(row.customer, {})[row.meter] = int(row.quantity)
    largest = sorted(by_customer.items(), key=lambda item: (-item[1]["tokens"], item[0]))[:_SHOWN_CUSTOMERS]
    most = largest[0][1]["tokens"]
    for customer, meters in largest:
        bar = "█" * max(1, round(_BAR_WIDTH * meters["tokens"] / most))
        table.add_row(customer, f"{meters['calls']:,}", f"{meters['tokens']:,}", bar)
    return table


def _clickhouse_table(stack: Stack) -> Table:
    result = clickhouse_client(stack.settings).query(_SHOWN_QUERY)
    table = Table(*result.column_names)
    for row in result.result_rows:
        table.add_row(row[0], *(f"{int(value):,}" for value in row[1:]))
    return table


def _stripe_table(stack: Stack) -> Table:
    """What the Stripe sink's accepted intents add up to."""
    by_meter: dict[str, dict[str, int]] = {}
    for window, nano in accepted_usage(stack.settings).items():
        customers = by_meter.setdefault(window.stripe_event_name, {})
        customers[window.stripe_customer] = customers.get(window.stripe_customer, 0) + nano
    table = Table("meter", title="what Stripe got (dry: the built-in double of Stripe, no key is set)")
    table.add_column("customers", justify="right")
    table.add_column("quantity", justify="right")
    for meter, customers in sorted(by_meter.items()):
        table.add_row(meter, str(len(customers)), f"{sum(customers.values()) // NANO:,}")
    return table


def _show_around(stack: Stack, console: Console) -> None:
    directory = stack.data_dir
    console.print(
        f"\nThe stack keeps running until Ctrl-C. Look around:\n\n"
        f"  meterlog usage --org {ORG} --data-dir {directory}\n"
        f"  meterlog audit --data-dir {directory}\n"
        f"  curl {stack.api_url}/v1/health\n"
        f"  curl {stack.api_url}/v1/openapi.json\n"
        f"  ClickHouse: {stack.settings.clickhouse_url}  (user and password: {directory}/stack.json)\n"
        f"  logs: {directory}/logs/\n",
        highlight=False,
        soft_wrap=True,
    )

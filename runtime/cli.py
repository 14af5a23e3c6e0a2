"""`meterlog`, the only command. Its words are a contract that scripts rely on; what each does is in the module it names."""

import json
import signal
import sys
import threading
from pathlib import Path
from typing import Annotated, Any

import typer

from runtime.embedded.errors import EmbeddedError
from runtime.errors import CommandError

# Modules that a command needs are imported by the command: `meterlog keys create` should not pay a second for Faust's
# imports, and `meterlog embedded clickhouse` must set its time zone before its engine is loaded.

__all__ = ["main"]

_USAGE_EXIT = 2
_DIFFERS_EXIT = 1

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Usage-based billing on a message log.",
)
sink = typer.Typer(no_args_is_help=True, help="Run a sink: what leaves the log.")
topics = typer.Typer(no_args_is_help=True, help="The deployment's topics.")
keys = typer.Typer(no_args_is_help=True, help="API keys. A key is shown once; only its digest is kept.")
events = typer.Typer(no_args_is_help=True, help="Usage events.")
dead_letters = typer.Typer(no_args_is_help=True, help="What was refused: why, and sending it again after a fix.")
late = typer.Typer(no_args_is_help=True, help="Usage older than 34 days, which a person approves or rejects.")
backfill = typer.Typer(no_args_is_help=True, help="History on its way to the log.")
embedded = typer.Typer(no_args_is_help=True, hidden=True, help="Parts of the embedded stack.")
for name, group in (
    ("sink", sink),
    ("topics", topics),
    ("keys", keys),
    ("events", events),
    ("dead-letters", dead_letters),
    ("backfill", backfill),
    ("late", late),
    ("embedded", embedded),
):
    app.add_typer(group, name=name)

DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir", help="A stack's data directory. Without it the METERLOG_… variables say where everything is."
    ),
]
LateOrg = Annotated[str, typer.Option("--org", help="The organisation whose usage it is.")]
LateIds = Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="As `late list` shows them.")]
LateAll = Annotated[bool, typer.Option("--all", help="All that wait, but for ids that were counted before.")]
LateCustomer = Annotated[str | None, typer.Option("--customer", help="Of this customer alone.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def main() -> None:
    """Run the command line; a refusal goes to stderr with what to do, exit 2."""
    try:
        app()
    except (CommandError, EmbeddedError) as exc:
        _refuse(str(exc))
        sys.exit(_USAGE_EXIT)


def _refuse(message: str) -> None:
    """In the log of a process that has one, else as a line for the person who typed the command."""
    from runtime.log_lines import is_set_up, refuse

    if is_set_up():
        refuse(message)
    else:
        typer.echo(f"meterlog: {message}", err=True)


@app.command()
def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave the stack running afterwards, until Ctrl-C.")] = False,
    data_dir: Annotated[
        Path | None, typer.Option("--data-dir", help="Where to keep it; default: a temporary folder.")
    ] = None,
    now: Annotated[
        str | None, typer.Option("--now", help="RFC 3339; the moment the sample usage is shifted to.")
    ] = None,
) -> None:
    """The whole pipeline on an hour of real LLM usage, with a kill in the middle; ends with the audit equation."""
    from runtime.demo import run_demo

    sys.exit(run_demo(keep=keep, data_dir=data_dir, now=now))


@app.command()
def up(
    data_dir: Annotated[Path, typer.Option("--data-dir", help="Where everything is kept, and continues.")] = Path(
        ".meterlog"
    ),
    port: Annotated[int, typer.Option("--port", min=0, max=65_535, help="The API's port; 0 picks a free one.")] = 8080,
) -> None:
    """The embedded stack in the foreground, until Ctrl-C."""
    from runtime.stack import run_up

    sys.exit(run_up(data_dir, port))


@app.command()
def worker(data_dir: DataDir = None) -> None:
    """Fold usage events: deduplicate, count, keep the ledger."""
    from runtime.processes import run_worker_process

    sys.exit(run_worker_process(_settings(data_dir)))


@app.command()
def forwarder(data_dir: DataDir = None) -> None:
    """Carry backfills over to the log, no faster than the fold takes them."""
    from runtime.processes import run_forwarder_process

    sys.exit(run_forwarder_process(_settings(data_dir), _stop_on_signal()))


@app.command()
def api(
    data_dir: DataDir = None,
    host: Annotated[str | None, typer.Option("--host", help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option("--port", min=0, max=65_535, help="Port to listen on.")] = None,
) -> None:
    """Serve the HTTP API."""
    from runtime.processes import run_api_process

    settings = _settings(data_dir)
    sys.exit(run_api_process(settings, host or settings.api_host, settings.api_port if port is None else port))


@sink.command("clickhouse")
def sink_clickhouse(data_dir: DataDir = None) -> None:
    """Write events, refusals and hourly totals to ClickHouse."""
    from runtime.processes import run_clickhouse_sink

    sys.exit(run_clickhouse_sink(_settings(data_dir), _stop_on_signal()))


@sink.command("stripe")
def sink_stripe(data_dir: DataDir = None) -> None:
    """Report hourly totals to Stripe's billing meters; without a key, dry, against the built-in double."""
    from runtime.processes import run_stripe_sink

    sys.exit(run_stripe_sink(_settings(data_dir), _stop_on_signal()))


@topics.command("create")
def topics_create(data_dir: DataDir = None) -> None:
    """Make the topics that are missing, and check the others."""
    from runtime.topics import create_topics, operator_key, public_bytes

    settings = _settings(data_dir)
    settings.operator_key_path.parent.mkdir(parents=True, exist_ok=True)
    public_key = public_bytes(operator_key(settings.operator_key_path))
    made = create_topics(settings.bootstrap_servers, settings.partitions, settings.replication, public_key)
    typer.echo(f"made {', '.join(made)}" if made else "all topics are as they should be")


@app.command()
def audit(
    data_dir: DataDir = None,
    as_json: Json = False,
    wait_s: Annotated[
        float, typer.Option("--wait", help="Seconds to wait for the fold and the sinks to catch up.")
    ] = 60.0,
) -> None:
    """Check that accepted = counted + duplicate + rejected, and that every book agrees. Exit 1 where not."""
    from runtime.auditing import print_audit, run_audit

    found = run_audit(_settings(data_dir), wait_s)
    print_audit(found, as_json=as_json)
    sys.exit(0 if found.holds else _DIFFERS_EXIT)


Partition = Annotated[int, typer.Option("--partition", min=0, help="The partition of usage-events that stands.")]
Offset = Annotated[int, typer.Option("--offset", min=0, help="The record before which it stands.")]
Account = Annotated[str, typer.Option("--account", help="org/customer.")]


@app.command()
def quarantine(
    partition: Annotated[
        int | None, typer.Option("--partition", min=0, help="The partition of usage-events that stands.")
    ] = None,
    offset: Annotated[int | None, typer.Option("--offset", min=0, help="The record before which it stands.")] = None,
    account: Annotated[
        str | None, typer.Option("--account", help="org/customer: set all that concerns it aside, until a release.")
    ] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Set aside the record before which a partition stands, or an account, from that record on or from now on."""
    from runtime.errors import CommandError

    if (partition is None) != (offset is None) or (account is None and partition is None):
        message = "name a record by --partition and --offset, an account by --account, or both"
        raise CommandError(message)
    operator = _operator(data_dir)
    if account is not None:
        _print_order(operator.quarantine_account(account, partition, offset), as_json=as_json)
    else:
        _print_order(operator.quarantine_record(partition, offset), as_json=as_json)


@app.command()
def release(account: Account, data_dir: DataDir = None, as_json: Json = False) -> None:
    """End an account's quarantine. What was set aside is counted when its dead letters are replayed."""
    _print_order(_operator(data_dir).release(account), as_json=as_json)


@app.command()
def resume(partition: Partition, offset: Offset, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Fold the record before which a partition stands: the code was mended, or its time is right."""
    _print_order(_operator(data_dir).resume(partition, offset), as_json=as_json)


@app.command("freeze-time")
def freeze_time(
    partition: Partition,
    offset: Offset,
    last_offset: Annotated[
        int | None,
        typer.Option("--to", min=0, help="The last record with a wrong time; default: the last that is there now."),
    ] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Let a partition's log time stand over records that a broker's wrong clock has timed."""
    _print_order(_operator(data_dir).freeze_time(partition, offset, last_offset), as_json=as_json)


@app.command("switch-behaviour")
def switch_behaviour(
    version: Annotated[int, typer.Argument(min=2, help="The one after the present.")],
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Let all partitions decide by the next version of the rules, once every worker knows it."""
    _print_order(_operator(data_dir).switch_behaviour(version), as_json=as_json)


@app.command()
def replay(
    partition: Annotated[int | None, typer.Option("--partition", min=0, help="Only this one.")] = None,
    month: Annotated[
        str | None, typer.Option("--from", metavar="YYYY-MM", help="Begin with that month's snapshot, not the genesis.")
    ] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Fold the ledger's records again and compare every fact byte for byte. Exit 1 with the first difference."""
    from rich.console import Console

    from billing.catalog.builtin import BUILTIN_CATALOG
    from runtime.replaying import print_replay, run_replay

    servers = _settings(data_dir).bootstrap_servers
    found = run_replay(servers, BUILTIN_CATALOG, partition, Console(stderr=True), month)
    print_replay(found, as_json=as_json)
    sys.exit(_DIFFERS_EXIT if any(line.difference for line in found) else 0)


@app.command()
def usage(
    org: Annotated[str, typer.Option("--org", help="The organisation.")],
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """What each customer of an organisation used, from ClickHouse."""
    from runtime.usage import print_usage, usage_of

    print_usage(usage_of(_settings(data_dir), org), as_json=as_json)


@keys.command("create")
def keys_create(
    org: Annotated[str, typer.Option("--org", help="The organisation the key is of: 1 to 63 of a-z, 0-9 and -.")],
    scopes: Annotated[
        str, typer.Option("--scopes", help="Of ingest, gate, read, finance and admin, separated by commas.")
    ],
    data_dir: DataDir = None,
) -> None:
    """Make a key and print it, once, as JSON."""
    from runtime.processes import create_api_key

    _print_json(create_api_key(_settings(data_dir), org, scopes))


@keys.command("list")
def keys_list(data_dir: DataDir = None, org: Annotated[str | None, typer.Option("--org")] = None) -> None:
    """The keys, without the keys themselves."""
    from runtime.processes import list_api_keys

    _print_json(list_api_keys(_settings(data_dir), org))


@keys.command("revoke")
def keys_revoke(
    key_id: Annotated[str, typer.Argument(help="As `keys list` shows it.")], data_dir: DataDir = None
) -> None:
    """Make a key worthless, on every node within seconds."""
    from runtime.processes import revoke_api_key

    _print_json(revoke_api_key(_settings(data_dir), key_id))


@events.command("send")
def events_send(
    file: Annotated[str, typer.Argument(help="CSV or NDJSON, may be gzipped; - reads stdin.")],
    org: Annotated[str, typer.Option("--org", help="The organisation whose usage it is.")],
    data_dir: DataDir = None,
    file_format: Annotated[str | None, typer.Option("--format", help="csv or ndjson; default: by the name.")] = None,
    as_json: Json = False,
    as_backfill: Annotated[
        bool, typer.Option("--backfill", help="History: by a lane of its own, so that live events do not wait for it.")
    ] = False,
    as_late: Annotated[
        bool,
        typer.Option("--late", help="Usage older than 34 days: each event waits for a person; see `meterlog late`."),
    ] = False,
) -> None:
    """Send a file of usage events straight to Kafka. Sent again, it is all duplicates. Exit 1 where a line was refused."""
    from rich.console import Console

    from runtime.late import late_way
    from runtime.processes import now_ms
    from runtime.send import BACKFILL, LIVE, print_sent, send_file

    if as_backfill and as_late:
        message = "--backfill is for up to 34 days of history, --late for what is older: send two files"
        raise CommandError(message)
    console, settings = Console(stderr=True), _settings(data_dir)
    way = late_way(settings, now_ms) if as_late else BACKFILL if as_backfill else LIVE
    sent = send_file(file, org, settings.bootstrap_servers, now_ms, console, file_format=file_format, way=way)
    if sent.acknowledged and (as_backfill or as_late):
        command = "backfill status --watch" if as_backfill else f"late list --org {org}"
        console.print(f"see what becomes of it with: meterlog {command}", highlight=False)
    print_sent(sent, as_json=as_json)
    sys.exit(0 if sent.complete else _DIFFERS_EXIT)


LetterReason = Annotated[str | None, typer.Option("--reason", help="Only letters of this reason, as `list` shows it.")]
LetterOrg = Annotated[str | None, typer.Option("--org", help="Only letters whose key names this organisation.")]
Since = Annotated[str | None, typer.Option("--since", help="RFC 3339; only what was appended then or later.")]


@dead_letters.command("list")
def dead_letters_list(
    reason: LetterReason = None,
    org: LetterOrg = None,
    since: Since = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many to show: the newest.")] = 100,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """What was refused, the newest last, and what of it was replayed."""
    from runtime.dead_letters import list_letters, print_letters

    selection = _letters([], reason, org, since)
    print_letters(*list_letters(_settings(data_dir).bootstrap_servers, selection, limit), as_json=as_json)


@dead_letters.command("show")
def dead_letters_show(
    letter: Annotated[str, typer.Argument(metavar="PARTITION/OFFSET", help="As `dead-letters list` shows it.")],
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """One refused record as far as it can be read, why it was refused, and what one can do about it."""
    from billing.catalog.builtin import BUILTIN_CATALOG
    from runtime.dead_letters import print_letter, show_letter
    from runtime.letters import parse_id
    from runtime.processes import now_ms

    servers = _settings(data_dir).bootstrap_servers
    print_letter(show_letter(servers, parse_id(letter), BUILTIN_CATALOG, now_ms()), as_json=as_json)


@dead_letters.command("replay")
def dead_letters_replay(
    letters: Annotated[
        list[str] | None, typer.Argument(metavar="[PARTITION/OFFSET]...", help="As `dead-letters list` shows them.")
    ] = None,
    reason: LetterReason = None,
    org: LetterOrg = None,
    since: Since = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Also what was replayed before; ids keep it harmless.")
    ] = False,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Append refused records to the log again, as they were, where their keys belong. Exit 1 where one was left out."""
    from rich.console import Console

    from billing.catalog.builtin import BUILTIN_CATALOG
    from runtime.dead_letters import print_replayed, replay_letters
    from runtime.processes import now_ms

    selection = _letters(letters or [], reason, org, since)
    if not (selection.ids or selection.reason or selection.org):
        message = "say which letters to replay: PARTITION/OFFSET of each, --reason or --org"
        raise CommandError(message)
    servers, console = _settings(data_dir).bootstrap_servers, Console(stderr=True)
    done = replay_letters(servers, selection, BUILTIN_CATALOG, now_ms, console, dry_run=dry_run, again=again)
    print_replayed(done, as_json=as_json)
    sys.exit(0 if done.complete else _DIFFERS_EXIT)


@backfill.command("status")
def backfill_status(
    data_dir: DataDir = None,
    as_json: Json = False,
    watch: Annotated[bool, typer.Option("--watch", help="Until nothing waits any more.")] = False,
) -> None:
    """How much of the backfills waits, how fast it goes, and when it will be done."""
    from runtime.backfill import print_status, status_of, watch_status

    servers = _settings(data_dir).bootstrap_servers
    print_status(watch_status(servers) if watch else status_of(servers), as_json=as_json)


@late.command("list")
def late_list(
    data_dir: DataDir = None,
    org: Annotated[str | None, typer.Option("--org", help="Of this organisation alone.")] = None,
    as_json: Json = False,
) -> None:
    """The late events that wait, and which of their ids were counted before. Reads the whole ledger."""
    from runtime.late import list_waiting, print_waiting

    print_waiting(list_waiting(_settings(data_dir), org), as_json=as_json)


@late.command("approve")
def late_approve(
    org: LateOrg,
    ids: LateIds = None,
    every: LateAll = False,
    customer: LateCustomer = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Count late events, each where its approval lies on the log. Exit 1 where one was refused."""
    _decide_late(org, ids, every, customer, data_dir, approve=True, as_json=as_json)


@late.command("reject")
def late_reject(
    org: LateOrg,
    ids: LateIds = None,
    every: LateAll = False,
    customer: LateCustomer = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Never count late events. Exit 1 where one was refused."""
    _decide_late(org, ids, every, customer, data_dir, approve=False, as_json=as_json)


def _decide_late(
    org: str,
    ids: list[str] | None,
    every: bool,
    customer: str | None,
    data_dir: Path | None,
    *,
    approve: bool,
    as_json: bool,
) -> None:
    from runtime.late import choose, decide_waiting, list_waiting, print_decided
    from runtime.processes import now_ms

    settings = _settings(data_dir)
    rows = choose(list_waiting(settings, org), ids or [], customer, every=every, approve=approve)
    decided = decide_waiting(settings, rows, now_ms, approve=approve)
    print_decided(decided, as_json=as_json)
    sys.exit(_DIFFERS_EXIT if decided.refused or decided.pending else 0)


@embedded.command("fetch")
def embedded_fetch() -> None:
    """Download what the embedded Kafka needs."""
    from runtime.embedded.fetch import fetch

    fetch()


@embedded.command("clickhouse")
def embedded_clickhouse(data_dir: DataDir = None) -> None:
    """ClickHouse's engine behind its HTTP interface, on loopback."""
    from runtime.processes import run_embedded_clickhouse

    run_embedded_clickhouse(_settings(data_dir))


@embedded.command("stripe")
def embedded_stripe(data_dir: DataDir = None) -> None:
    """The double of Stripe's billing meters, on loopback."""
    from runtime.processes import run_embedded_stripe

    sys.exit(run_embedded_stripe(_settings(data_dir), _stop_on_signal()))


def _operator(data_dir: Path | None) -> Any:
    from runtime.orders import Operator
    from runtime.processes import now_ms

    return Operator(_settings(data_dir), now_ms())


def _print_order(given: Any, *, as_json: bool) -> None:
    from runtime.orders import print_given

    print_given(given, as_json=as_json)


def _settings(data_dir: Path | None) -> Any:
    from runtime.settings import load_settings

    return load_settings(data_dir)


def _letters(ids: list[str], reason: str | None, org: str | None, since: str | None) -> Any:
    """What the options select. Raises CommandError for a reason that is none, or a moment that is none."""
    from billing.errors import InvalidField
    from billing.facts import Reason
    from runtime.letters import Selection, parse_id
    from schemas.timestamps import parse_timestamp

    if reason is not None and reason not in list(Reason):
        message = f"--reason: {reason[:48]!r} is none of {', '.join(Reason)}"
        raise CommandError(message)
    try:
        since_ms = None if since is None else parse_timestamp("--since", since) // 1_000
    except InvalidField as exc:
        raise CommandError(str(exc)) from exc
    return Selection(tuple(parse_id(each) for each in ids), None if reason is None else Reason(reason), org, since_ms)


def _stop_on_signal() -> threading.Event:
    """Set by the first SIGTERM or Ctrl-C: finish what is begun, then end."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def _print_json(value: object) -> None:
    typer.echo(json.dumps(value, indent=2))

"""Usage events: what one causes, and what that changes."""

from typing import Final

from billing.catalog.types import Catalog, Meter, Plan, StripeKind
from billing.errors import InvalidField, RowsContradict
from billing.facts import (
    AccountOpened,
    Entry,
    EventCounted,
    EventDuplicate,
    EventRejected,
    Fact,
    PairsCapped,
    Reason,
)
from billing.metering.digest import DIGEST_MODULUS, entry_digest, payload_digest
from billing.metering.rules import PAIRS_PER_DAY_MAX, SEEN_MS, check_fields, check_time, measured
from billing.periods import DAY_S, HOUR_S, period_at
from billing.quantities import nano_of, plain
from billing.records import Status, UsageEvent, name_of_ordinal
from billing.state import (
    Account,
    Counter,
    PairsKey,
    Seen,
    SeenKey,
    State,
    StripeHour,
    StripeHourKey,
    Total,
    TotalKey,
)

__all__ = [
    "OTHER",
    "check_duplicate",
    "decide_counting",
    "decide_usage",
    "evolve_counted",
    "evolve_opened",
    "evolve_rejected",
    "met_before",
]

OTHER = "~other"
"""The label of usage past the cap on feature and model pairs. Amounts never depend on it."""

_NO_STRIPE: Final = StripeKind.NONE  # by its class, an enum's member takes 0.09 µs to look up (Python 3.11)
_OTHER_PAIR: Final = (OTHER, OTHER)
_NO_PAIRS: frozenset[tuple[str, str]] = frozenset()


def decide_usage(state: State, catalog: Catalog, event: UsageEvent, account: str, log_ms: int) -> list[Fact]:
    """The facts of a usage event whose key and route were found right: one says what came of it.

    The opening of an account stands before that one, since counting needs the account.
    """
    try:
        quantity_nano = check_fields(event)
    except InvalidField as exc:
        return [_rejected(Reason.INVALID_FIELD, exc.message, account, event, field=exc.field)]
    if refusal := check_time(event.occurred_at_us, log_ms):
        return [_rejected(*refusal, account, event, field="occurred_at")]
    digest = payload_digest(event)
    if met := met_before(state, account, event, digest, log_ms):
        return [met]
    return decide_counting(state, catalog, event, quantity_nano, account, digest, log_ms)


def decide_counting(
    state: State,
    catalog: Catalog,
    event: UsageEvent,
    quantity_nano: int,
    account: str,
    digest: bytes,
    log_ms: int,
) -> list[Fact]:
    """The facts of an event whose fields, time and id are right: it is counted, or catalog or plan do not let it."""
    opened = None
    row = state.accounts.get(account)
    if row is None:
        opened = AccountOpened(account, catalog.default_plan, stripe_customer=account)
    plan = catalog.plans[row.plan if row else catalog.default_plan]
    meters = measured(event, quantity_nano, catalog)
    if refusal_fact := _refused(catalog, plan, meters, account, event, digest, known=row is not None):
        return [refusal_fact]
    stripe_customer = row.stripe_customer if row else account
    counted, capped = _counted(state, plan, meters, account, event, digest, stripe_customer, log_ms)
    return [fact for fact in (opened, counted, capped) if fact is not None]


def evolve_opened(state: State, fact: AccountOpened, ordinal: int, log_ms: int) -> None:
    state.accounts.put(fact.account, Account(fact.plan, log_ms, fact.stripe_customer, {}, ordinal))


def evolve_counted(state: State, catalog: Catalog, fact: EventCounted, ordinal: int, log_ms: int) -> None:
    """The id is remembered; counters, hour totals and what Stripe is told grow by the fact's entries."""
    state.seen.put(SeenKey(fact.account, fact.event_id), Seen(log_ms, ordinal, fact.payload_digest))
    account = state.accounts.get(fact.account)
    assert account is not None, f"{fact.account} was opened by its first event"
    if account.applied_offset > ordinal:
        message = f"{fact.account} already reflects offset {account.applied_offset}"
        raise RowsContradict(message)
    quota_start_s = period_at(catalog.plans[account.plan].quota_period, fact.occurred_at_us // 1_000_000).start_s
    counters = dict(account.counters)
    for entry in fact.entries:
        nano = nano_of(entry.quantity)
        counters[entry.meter] = _counter(counters.get(entry.meter), quota_start_s, nano)
        _add_to_total(state, fact, entry, nano, ordinal)
        if entry.stripe_event_name is not None:
            _add_to_stripe_hour(state, fact, entry.stripe_event_name, nano, ordinal)
    row = Account(account.plan, account.opened_at_ms, account.stripe_customer, counters, ordinal)
    state.accounts.put(fact.account, row)
    _add_pair(state, PairsKey(fact.booking_day, fact.account), (fact.feature, fact.model))


def evolve_rejected(state: State, fact: EventRejected, ordinal: int, log_ms: int) -> None:
    """A refused event whose id is kept is met again as a duplicate; any other leaves nothing behind."""
    if fact.payload_digest is not None:
        assert fact.account is not None, "a kept id belongs to an account"
        assert fact.event_id is not None, "a kept id is an id"
        state.seen.put(SeenKey(fact.account, fact.event_id), Seen(log_ms, ordinal, fact.payload_digest))


def check_duplicate(fact: EventDuplicate, ordinal: int) -> None:
    """An event is no duplicate of itself, nor of a later one: such a row is of an epoch that was never committed."""
    if fact.first_offset >= ordinal:
        message = f"{fact.account} {fact.event_id[:48]!a} was already met at {name_of_ordinal(fact.first_offset)}"
        raise RowsContradict(message)


def met_before(
    state: State, account: str, event: UsageEvent, digest: bytes, log_ms: int
) -> EventDuplicate | EventRejected | None:
    """What an event is whose id was met within its window: a duplicate, or a conflict. None: the id is new."""
    seen = state.seen.get(SeenKey(account, event.event_id))
    if seen is None or log_ms >= seen.accepted_at_ms + SEEN_MS:
        return None
    if seen.payload_digest == digest:
        return EventDuplicate(account, event.event_id, seen.first_offset)
    first = name_of_ordinal(seen.first_offset)
    message = f"the id was already used at {first} with other content; give each event an id of its own"
    return _rejected(Reason.ID_CONFLICT, message, account, event, field="event_id")


def _refused(
    catalog: Catalog,
    plan: Plan,
    meters: tuple[tuple[Meter, int], ...],
    account: str,
    event: UsageEvent,
    digest: bytes,
    *,
    known: bool,
) -> Fact | None:
    """Why the catalog or the plan does not let the event count, or None when they do."""
    if not known and not catalog.create_customers:
        message = "the catalog does not create customers; create this one first"
        return _rejected(Reason.UNKNOWN_CUSTOMER, message, account, event, field="customer_id")
    if not meters:
        field = "meter" if event.meter is not None else "event_type"
        message = f"{(event.meter or event.event_type or '')[:48]!a} is not in the catalog; use a known one or add it"
        return _rejected(Reason.UNKNOWN_METER, message, account, event, field=field)
    for meter, _ in meters:
        if meter.custom and meter.slug not in plan.meters:
            message = f"plan {plan.ref.plan_id} does not name the custom meter {meter.slug}"
            return _rejected(Reason.METER_NOT_ENABLED, message, account, event, field="meter")
    if event.status == Status.FAILED and not plan.bill_failed_calls:
        message = "the call failed: recorded, not billed"
        return EventRejected(Reason.FAILED_CALL, "status", message, account, event.event_id, digest)
    return None


def _counted(
    state: State,
    plan: Plan,
    meters: tuple[tuple[Meter, int], ...],
    account: str,
    event: UsageEvent,
    digest: bytes,
    stripe_customer: str,
    log_ms: int,
) -> tuple[EventCounted, PairsCapped | None]:
    occurred_at_s = event.occurred_at_us // 1_000_000
    booking_day = log_ms // (DAY_S * 1_000)
    pair, capped = _pair(state, PairsKey(booking_day, account), (event.feature or "", event.model or ""))
    counted = EventCounted(
        account=account,
        event_id=event.event_id,
        occurred_at_us=event.occurred_at_us,
        payload_digest=digest,
        feature=pair[0],
        model=pair[1],
        hour=occurred_at_s // HOUR_S,
        booking_day=booking_day,
        billing_start_s=period_at(plan.billing_period, occurred_at_s).start_s,
        stripe_customer=stripe_customer,
        entries=tuple([Entry(meter.slug, plain(nano), _stripe_event_name(plan, meter)) for meter, nano in meters]),
    )
    return counted, capped


def _pair(state: State, key: PairsKey, pair: tuple[str, str]) -> tuple[tuple[str, str], PairsCapped | None]:
    """The labels that the event is totalled under, and the alert when it is the first past the cap."""
    pairs = state.pairs.get(key) or _NO_PAIRS
    apart_count = len(pairs) - (_OTHER_PAIR in pairs)
    if pair in pairs or apart_count < PAIRS_PER_DAY_MAX:
        return pair, None
    return _OTHER_PAIR, None if _OTHER_PAIR in pairs else PairsCapped(key.account, key.booking_day)


def _add_pair(state: State, key: PairsKey, pair: tuple[str, str]) -> None:
    pairs = state.pairs.get(key) or _NO_PAIRS
    if pair not in pairs:
        state.pairs.put(key, pairs | {pair})


def _stripe_event_name(plan: Plan, meter: Meter) -> str | None:
    planned = plan.meters.get(meter.slug)
    if planned is None or planned.stripe is _NO_STRIPE:
        return None
    return planned.stripe_event_name or meter.slug


def _counter(counter: Counter | None, period_start_s: int, nano: int) -> Counter:
    """A later period replaces the counter; usage of an earlier one no longer weighs on any quota."""
    if counter is None or counter.period_start_s < period_start_s:
        return Counter(period_start_s, nano)
    if counter.period_start_s > period_start_s:
        return counter
    return Counter(period_start_s, counter.used_nano + nano)


def _add_to_total(state: State, fact: EventCounted, entry: Entry, nano: int, ordinal: int) -> None:
    key = TotalKey(
        fact.booking_day, fact.account, fact.billing_start_s, entry.meter, fact.feature, fact.model, fact.hour
    )
    digest = entry_digest(fact.event_id, entry.meter, entry.quantity, fact.occurred_at_us)
    total = state.totals.get(key)
    if total is None:
        state.totals.put(key, Total(nano, 1, digest, ordinal))
        return
    if total.version_offset >= ordinal:
        message = f"the total {key} already reflects {name_of_ordinal(total.version_offset)}"
        raise RowsContradict(message)
    state.totals.put(
        key,
        Total(total.quantity_nano + nano, total.event_count + 1, (total.digest + digest) % DIGEST_MODULUS, ordinal),
    )


def _add_to_stripe_hour(state: State, fact: EventCounted, stripe_event_name: str, nano: int, ordinal: int) -> None:
    key = StripeHourKey(fact.hour, fact.account, fact.stripe_customer, stripe_event_name)
    row = state.stripe_hours.get(key)
    state.stripe_hours.put(key, StripeHour((row.quantity_nano if row else 0) + nano, ordinal))


def _rejected(reason: Reason, message: str, account: str, event: UsageEvent, *, field: str) -> EventRejected:
    return EventRejected(reason, field, message, account, event.event_id, None)

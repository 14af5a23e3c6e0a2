"""Log events of the Stripe sink: their names, what each means, and its fields."""

from typing import Literal

__all__ = ["STRIPE_SINK_EVENTS", "StripeSinkEvent"]

StripeSinkEvent = Literal[
    "sink.stripe.starting",
    "sink.stripe.ready",
    "sink.stripe.round_done",
    "sink.stripe.refused",
    "sink.stripe.unlinked",
    "sink.stripe.unknown",
    "sink.stripe.meters_read",
    "sink.stripe.misconfigured",
    "sink.stripe.replaced",
    "sink.stripe.broken",
    "sink.stripe.stopped",
]

STRIPE_SINK_EVENTS: dict[StripeSinkEvent, str] = {
    "sink.stripe.starting": "Before anything is read. target (double, test, live), url, note (of a dry run).",
    "sink.stripe.ready": "Caught up with both topics. windows, pending (intents to be made definite first), read_s.",
    "sink.stripe.round_done": "One round of requests. intents, repeats, accepted, refused, unknown, took_ms.",
    "sink.stripe.refused": "Stripe will not have a total as it is. customer, meter, hour, quantity, code, message.",
    "sink.stripe.unlinked": "A total was not sent: the customer is none of Stripe's. customer, meter, hour, quantity.",
    "sink.stripe.unknown": "A request without a definite answer, to be repeated. identifier (of an event), why.",
    "sink.stripe.meters_read": "Stripe's meters were listed. usable, unusable (with the reason of each).",
    "sink.stripe.misconfigured": "The process ends: a setting must change first. why.",
    "sink.stripe.replaced": "The process ends: another instance of the sink has taken over. why.",
    "sink.stripe.broken": "The process ends: something unexpected; the next one continues from the log. why.",
    "sink.stripe.stopped": "The process ends as asked. pending.",
}

"""The Stripe sink: what each customer used, hour by hour, told to Stripe's billing meters."""

from sinks.stripe.sink import StripeSinkConfig, run

__all__ = ["StripeSinkConfig", "run"]

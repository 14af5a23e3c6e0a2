"""What the sink needs of Stripe: meters that keep an hour's last value. `MemoryMeters` keeps them in dictionaries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from sinks.stripe.errors import Refused

__all__ = ["Accepted", "MemoryMeters", "MeterEvent", "MeterInfo", "Meters"]

HOUR_S = 3_600


class MeterEvent(NamedTuple):
    """One event for a meter."""

    event_name: str
    identifier: str
    """Also the Idempotency-Key."""
    customer_key: str
    """Under which name the meter looks for the customer; `value_key` likewise for the value."""
    customer: str
    value_key: str
    value: str
    """Plain decimal."""
    timestamp_s: int


class Accepted(NamedTuple):
    """Stripe has the event."""

    livemode: bool
    request_id: str | None
    was_duplicate: bool
    """It had it already: an earlier try with the same identifier."""


class MeterInfo(NamedTuple):
    """A meter as Stripe lists it."""

    meter_id: str
    event_name: str
    event_time_window: str | None
    formula: str
    customer_key: str
    value_key: str
    active: bool

    @property
    def why_unusable(self) -> str | None:
        """Why no total may be sent to it; None where one may.

        An absolute total sent to a meter that adds events up would bill an hour once for each time it was sent.
        """
        if not self.active:
            return "archived_meter"
        if self.event_time_window != "hour":
            return "meter_without_hour_window"
        return None if self.formula == "sum" else "meter_does_not_sum"


class Meters(Protocol):
    """Stripe's billing meters."""

    async def send(self, event: MeterEvent) -> Accepted:
        """Tell one event. At most one at a time for a customer and meter.

        Returning means that Stripe has it. Raises Refused, TryAgain, Unknown, StopSink; only after Unknown may it have
        it, too. Never tries twice by itself.
        """

    async def meters(self) -> Mapping[str, MeterInfo]:
        """All meters, by event name. Raises TryAgain, Unknown, StopSink."""

    async def hours(self, meter_id: str, customer: str, start_s: int, end_s: int) -> Mapping[int, float]:
        """The value of each hour from `start_s` to before `end_s` (whole hours) that has one, by whole hours since 1970.

        Stripe makes these some time after it took the events, and as floats. Raises as `meters` does.
        """

    async def close(self) -> None: ...


class MemoryMeters:
    """Meters in dictionaries, without faults and for ever: for tests of what stands above the port."""

    def __init__(self, meters: Mapping[str, MeterInfo]) -> None:
        self._meters = dict(meters)
        self._identifiers: set[str] = set()
        self._values: dict[tuple[str, str, int], str] = {}

    async def send(self, event: MeterEvent) -> Accepted:
        info = self._meters.get(event.event_name)
        if info is None or not info.active:
            raise Refused("no_meter" if info is None else "archived_meter", f"{event.event_name} takes no events")
        was_duplicate = event.identifier in self._identifiers
        if not was_duplicate:
            self._identifiers.add(event.identifier)
            self._values[info.meter_id, event.customer, event.timestamp_s // HOUR_S] = event.value
        return Accepted(livemode=False, request_id=None, was_duplicate=was_duplicate)

    async def meters(self) -> Mapping[str, MeterInfo]:
        return dict(self._meters)

    async def hours(self, meter_id: str, customer: str, start_s: int, end_s: int) -> Mapping[int, float]:
        wanted = range(start_s // HOUR_S, end_s // HOUR_S)
        return {
            hour: float(value)
            for (meter, whose, hour), value in self._values.items()
            if (meter, whose) == (meter_id, customer) and hour in wanted
        }

    async def close(self) -> None:
        """Nothing to let go of."""

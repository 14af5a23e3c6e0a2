"""What lies on `usage-totals`: the totals so far, absolute and versioned, as MessagePack arrays.

    [1, version, incarnation, partition, offset, …]   an hour total        [2, …]   what Stripe is told of an hour

A reader keeps, of each row, the value with the highest (incarnation, offset); a repeated or reordered one changes nothing.
A row's key on the topic is its key in the fold's table. A row that was closed stays here with its last value.
"""

from typing import Final

import msgspec

from billing.quantities import plain
from billing.records import from_ordinal
from billing.state import StripeHour, StripeHourKey, Total, TotalKey

__all__ = ["HourTotal", "StripeHourTotal", "decode_total", "encode_stripe_hour", "encode_total", "version_number"]

_VERSION: Final = 1


class HourTotal(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Usage of one customer, meter, feature and model in one hour, counted on one day."""

    version: int
    incarnation: int
    partition: int
    version_offset: int
    """Offset of the last record in it; with the incarnation, the row's version."""
    account: str
    billing_start_s: int
    meter: str
    feature: str
    model: str
    hour: int
    booking_day: int
    quantity: str
    """Plain decimal."""
    event_count: int
    digest: bytes
    """16 bytes, little-endian: see `billing.metering.digest`."""


class StripeHourTotal(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """The absolute total that Stripe's meter gets for one hour."""

    version: int
    incarnation: int
    partition: int
    version_offset: int
    account: str
    stripe_customer: str
    stripe_event_name: str
    hour: int
    quantity: str


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(HourTotal | StripeHourTotal).decode


def encode_total(partition: int, key: TotalKey, row: Total) -> bytes:
    incarnation, version_offset = from_ordinal(row.version_offset)
    return _encode(
        HourTotal(
            version=_VERSION,
            incarnation=incarnation,
            partition=partition,
            version_offset=version_offset,
            account=key.account,
            billing_start_s=key.billing_start_s,
            meter=key.meter,
            feature=key.feature,
            model=key.model,
            hour=key.hour,
            booking_day=key.booking_day,
            quantity=plain(row.quantity_nano),
            event_count=row.event_count,
            digest=row.digest.to_bytes(16, "little"),
        )
    )


def encode_stripe_hour(partition: int, key: StripeHourKey, row: StripeHour) -> bytes:
    incarnation, version_offset = from_ordinal(row.version_offset)
    return _encode(
        StripeHourTotal(
            version=_VERSION,
            incarnation=incarnation,
            partition=partition,
            version_offset=version_offset,
            account=key.account,
            stripe_customer=key.stripe_customer,
            stripe_event_name=key.stripe_event_name,
            hour=key.hour,
            quantity=plain(row.quantity_nano),
        )
    )


def decode_total(value: bytes) -> HourTotal | StripeHourTotal:
    """A value of `usage-totals`."""
    total: HourTotal | StripeHourTotal = _decode(value)
    return total


def version_number(incarnation: int, offset: int) -> int:
    """(incarnation, offset) as one unsigned 64-bit number that orders alike: 16 bits and 48."""
    assert 0 <= incarnation < 1 << 16, f"incarnation {incarnation} passes 16 bits"
    assert 0 <= offset < 1 << 48, f"offset {offset} passes 48 bits"
    return incarnation << 48 | offset

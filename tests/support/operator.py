"""An operator of tests: a key, and orders signed with it as `meterlog` signs them."""

from __future__ import annotations

from typing import Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from billing.late.types import LateRequest, encode_late, late_type
from billing.orders.types import OPERATOR, Order, QuarantineAccount, ReleaseAccount, encode_order, order_type
from billing.records import Command
from billing.signing import message_to_sign

__all__ = ["OPERATOR_KEY", "STRANGERS_KEY", "key_of", "public_key", "signed", "signed_late"]

OPERATOR_KEY: Final = Ed25519PrivateKey.from_private_bytes(b"o" * 32)
STRANGERS_KEY: Final = Ed25519PrivateKey.from_private_bytes(b"s" * 32)


def public_key(private_key: Ed25519PrivateKey = OPERATOR_KEY) -> bytes:
    """What the genesis has."""
    return private_key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def key_of(order: Order) -> bytes | None:
    """The key that an order lies under: its account, where it is about one."""
    match order:
        case QuarantineAccount() | ReleaseAccount():
            return order.account.encode()
        case _:
            return None


def signed_late(
    request: LateRequest,
    account: str,
    deployment_id: str = "test",
    by: Ed25519PrivateKey = OPERATOR_KEY,
    issued_at_ms: int = 1,
) -> Command:
    """What is asked about late usage, to lie under the account's key."""
    value = encode_late(request)
    unsigned = Command(late_type(request), deployment_id, b"r" * 16, issued_at_ms, value, OPERATOR, signature=b"")
    return msgspec.structs.replace(unsigned, signature=by.sign(message_to_sign(unsigned, account.encode())))


def signed(
    order: Order, issued_at_ms: int = 1, deployment_id: str = "test", by: Ed25519PrivateKey = OPERATOR_KEY
) -> Command:
    """The order as a command, to lie under `key_of(order)`."""
    unsigned = Command(
        order_type(order), deployment_id, b"r" * 16, issued_at_ms, encode_order(order), OPERATOR, signature=b""
    )
    return msgspec.structs.replace(unsigned, signature=by.sign(message_to_sign(unsigned, key_of(order))))

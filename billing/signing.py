"""Who signed a command: Ed25519 over everything in it that says what it does, to whom, and where it belongs."""

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from billing.records import Command

__all__ = ["is_signed", "message_to_sign"]


def message_to_sign(command: Command, key: bytes | None) -> bytes:
    """What the signature is over: deployment id, type, record key, request id, issued_at and value.

    Each part has its length before it, so that no two commands have the same message; a missing key is not an empty one.
    """
    parts = (
        command.deployment_id.encode(),
        command.type.encode(),
        key,
        command.request_id,
        str(command.issued_at_ms).encode(),
        command.value,
    )
    return b"".join(b"-:" if part is None else b"%d:%b" % (len(part), part) for part in parts)


def is_signed(public_key: bytes, command: Command, key: bytes | None) -> bool:
    """Whether the command, under its record's key, bears a signature by the holder of `public_key` (32 bytes)."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(command.signature, message_to_sign(command, key))
    except (InvalidSignature, ValueError):  # ValueError: bytes that are no key
        return False
    return True

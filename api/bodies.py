"""Reads request bodies: whole, within a limit, unpacked."""

import asyncio
import zlib
from collections.abc import AsyncIterator, Mapping
from typing import Final

from api.errors import BadRequest, RequestTimeout, TooLarge, UnsupportedMediaType

__all__ = ["BODY_BYTES_MAX", "read_body"]

BODY_BYTES_MAX: Final = 10 * 1024 * 1024
"""Of a body as it is sent, and as it is unpacked."""
_DRAINED_BYTES_MAX: Final = 4 * BODY_BYTES_MAX
_BODY_WAIT_S: Final = 30.0
"""For all of a body: a request that trickles in must not hold its place for ever."""
_GZIP_WBITS: Final = 31
_GZIP_MEMBERS_MAX: Final = 1_000  # of 20 bytes each, ten megabytes of empty ones would cost seconds


async def read_body(chunks: AsyncIterator[bytes], headers: Mapping[str, str]) -> bytes:
    """The body, unpacked. Raises TooLarge, UnsupportedMediaType, RequestTimeout, BadRequest (no gzip, or cut off).

    A body that is too large is read on for a while and dropped: most clients look for an answer only after they have
    sent all, and would report a broken connection instead of the limit.
    """
    packing = headers.get("content-encoding", "identity").strip().lower()
    if packing not in ("gzip", "x-gzip", "identity", ""):
        msg = f"Content-Encoding {packing[:48]!r} is not read here; send gzip, or the plain body"
        raise UnsupportedMediaType(msg, headers={"Accept-Encoding": "gzip"})
    waits_for_leave = headers.get("expect", "").lower() == "100-continue"
    if waits_for_leave and _declared_bytes(headers) > BODY_BYTES_MAX:
        raise _too_large()
    try:
        async with asyncio.timeout(_BODY_WAIT_S):
            raw = await _collect(chunks)
    except TimeoutError as exc:
        msg = f"the body was not complete after {_BODY_WAIT_S:g} s; send it faster, or in smaller batches"
        raise RequestTimeout(msg, headers={"Connection": "close"}) from exc
    return _unpacked(raw) if "gzip" in packing else raw


async def _collect(chunks: AsyncIterator[bytes]) -> bytes:
    parts: list[bytes] = []
    size_bytes = 0
    async for chunk in chunks:
        size_bytes += len(chunk)
        if size_bytes <= BODY_BYTES_MAX:
            parts.append(chunk)
        else:
            parts.clear()
            if size_bytes > _DRAINED_BYTES_MAX:
                break
    if size_bytes > BODY_BYTES_MAX:
        raise _too_large()
    return b"".join(parts)


def _unpacked(raw: bytes) -> bytes:
    """All members of a gzip stream. Stops at the limit: what a bomb holds beyond it is never unpacked."""
    parts: list[bytes] = []
    rest = raw
    for _ in range(_GZIP_MEMBERS_MAX):
        if not rest:
            return b"".join(parts)
        part, rest = _unpacked_member(rest, BODY_BYTES_MAX - sum(map(len, parts)))
        parts.append(part)
    msg = f"the gzip body has more than {_GZIP_MEMBERS_MAX} members; pack it as one"
    raise BadRequest(msg)


def _unpacked_member(packed: bytes, bytes_max: int) -> tuple[bytes, bytes]:
    """One member, and what follows it."""
    member = zlib.decompressobj(_GZIP_WBITS)
    try:
        data = member.decompress(packed, bytes_max + 1)
    except zlib.error as exc:
        raise BadRequest("the body is not gzip although Content-Encoding says so") from exc
    if len(data) > bytes_max:
        raise _too_large(" when unpacked")
    if not member.eof:
        raise BadRequest("the gzip body ends in the middle; send it whole")
    return data, member.unused_data


def _declared_bytes(headers: Mapping[str, str]) -> int:
    text = headers.get("content-length", "0")
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else 0


def _too_large(how: str = "") -> TooLarge:
    msg = f"the body is larger than {BODY_BYTES_MAX} bytes (10 MiB){how}; send smaller batches"
    return TooLarge(msg, headers={"Connection": "close"})

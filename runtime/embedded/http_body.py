"""HTTP bodies: read as they come, unpacked piece by piece, so that a small body cannot become a large memory."""

from __future__ import annotations

import gzip
import sys
import zlib
from collections.abc import Iterator
from typing import Protocol

import lz4.frame  # type: ignore[import-untyped]

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PIECE_BYTES_MAX = 1 << 20
_WORTH_PACKING_BYTES = 1024
_GZIP = 16 + zlib.MAX_WBITS
_GZIP_LEVEL = 3  # ClickHouse's own default: loopback is faster than any compressor


class BadBody(Exception):
    """Raised when a body is cut short, badly framed, badly packed, or packed in a way that is not known."""


class Readable(Protocol):
    """What a body is read from."""

    def read(self, size: int, /) -> bytes: ...

    def readline(self, limit: int, /) -> bytes: ...


class _Unpacker(Protocol):
    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes | None: ...

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Inflate:
    """zlib's decompressor with the interface that lz4's and zstd's share."""

    def __init__(self, window_bits: int) -> None:
        self._zlib = zlib.decompressobj(window_bits)
        self._full = False

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def needs_input(self) -> bool:
        return not (self._zlib.unconsumed_tail or self._full)

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        out = self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)
        self._full = len(out) == max_length  # zlib may hold more, although it has taken all of its input
        return out


def read_body(stream: Readable, length: str | None, transfer_encoding: str | None) -> Iterator[bytes]:
    """The body's pieces as they lie on the wire. Raises BadBody when it ends early or its framing is wrong."""
    if transfer_encoding is not None:
        if transfer_encoding.strip().lower() != "chunked":
            msg = f"Transfer-Encoding {transfer_encoding} is not known"
            raise BadBody(msg)
        return _chunked(stream)
    if length is None:
        return iter(())
    if not (length.isascii() and length.isdigit()):
        raise BadBody("Content-Length is not a number")
    return _exactly(stream, int(length))


def unpacked(pieces: Iterator[bytes], content_encoding: str | None) -> Iterator[bytes]:
    """`pieces` without their Content-Encoding, at most 1 MiB each. Raises BadBody."""
    encoding = (content_encoding or "identity").strip().lower()
    if encoding == "identity":
        yield from pieces
        return
    if encoding not in _UNPACKERS:
        msg = f"Content-Encoding {encoding} is not known; known are {', '.join(sorted(_UNPACKERS))}"
        raise BadBody(msg)
    yield from _unpack(pieces, encoding)


def pack(body: bytes, accept_encoding: str) -> tuple[bytes, str | None]:
    """`body` in the first encoding of `accept_encoding` that is known, and its name; as it is when it is small."""
    if len(body) < _WORTH_PACKING_BYTES:
        return body, None
    for offer in accept_encoding.split(","):
        match offer.split(";")[0].strip().lower():
            case "lz4":
                return lz4.frame.compress(body), "lz4"
            case "zstd":
                return zstd.compress(body), "zstd"
            case "gzip":
                return gzip.compress(body, _GZIP_LEVEL), "gzip"
            case "deflate":
                return zlib.compress(body, _GZIP_LEVEL), "deflate"
    return body, None


def _exactly(stream: Readable, remaining: int) -> Iterator[bytes]:
    while remaining:
        piece = stream.read(min(remaining, PIECE_BYTES_MAX))
        if not piece:
            raise BadBody("the body ended before its Content-Length")
        remaining -= len(piece)
        yield piece


def _chunked(stream: Readable) -> Iterator[bytes]:
    while size := _chunk_size(stream):
        yield from _exactly(stream, size)
        if stream.readline(3) != b"\r\n":
            raise BadBody("a chunk does not end where it said")
    while (trailer := stream.readline(PIECE_BYTES_MAX)) != b"\r\n":
        if not trailer:
            raise BadBody("the body ended before its last chunk")


def _chunk_size(stream: Readable) -> int:
    line = stream.readline(1024).split(b";")[0].strip()
    try:
        return int(line, 16)
    except ValueError as error:
        raise BadBody("a chunk's size is not a number") from error


def _unpacker(encoding: str) -> _Unpacker:
    match encoding:
        case "lz4":
            return lz4.frame.LZ4FrameDecompressor()  # type: ignore[no-any-return]
        case "zstd":
            return zstd.ZstdDecompressor()
        case "gzip":
            return _Inflate(_GZIP)
        case _:
            return _Inflate(zlib.MAX_WBITS)


_UNPACKERS = frozenset({"lz4", "zstd", "gzip", "deflate"})
_UNPACK_ERRORS: tuple[type[Exception], ...] = (RuntimeError, zlib.error, zstd.ZstdError, EOFError)


def _unpack(pieces: Iterator[bytes], encoding: str) -> Iterator[bytes]:
    """A body may be several frames one after another: clickhouse-connect makes one of each block of rows."""
    unpacker: _Unpacker | None = None
    for piece in pieces:
        data = piece
        while data or unpacker is not None:
            unpacker = unpacker or _unpacker(encoding)
            out = _step(unpacker, data, encoding)
            if out:
                yield out
            if unpacker.eof:
                data, unpacker = unpacker.unused_data or b"", None
            elif unpacker.needs_input:
                break
            else:
                data = b""
    if unpacker is not None:
        msg = f"the body ended within its {encoding} data"
        raise BadBody(msg)


def _step(unpacker: _Unpacker, data: bytes, encoding: str) -> bytes:
    try:
        return unpacker.decompress(data, PIECE_BYTES_MAX)
    except _UNPACK_ERRORS as error:
        msg = f"the body is not {encoding}: {error}"
        raise BadBody(msg) from error

"""Files of usage events, read as a stream: CSV or one JSON object a line, plain or packed with gzip."""

import csv
import gzip
import io
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, NamedTuple, cast

from billing.errors import InvalidField
from billing.records import UsageEvent
from runtime.errors import CommandError
from schemas.json_fields import Undecodable
from schemas.mapping import check_csv_columns, from_csv_row, from_native_json

if TYPE_CHECKING:
    from _csv import Reader

__all__ = ["FORMATS", "BadLine", "EventFile", "Line", "open_events"]

FORMATS: Final = ("csv", "ndjson")
_SUFFIXES: Final = {".csv": "csv", ".ndjson": "ndjson", ".jsonl": "ndjson"}
_LINE_BYTES_MAX: Final = 1 << 20
"""Of a line of JSON: more than any event has. A file without line ends must not be read into memory whole."""


class BadLine(NamedTuple):
    """A line that is no event."""

    field: str | None
    message: str


class Line(NamedTuple):
    number: int
    """In the unpacked file, from 1; of a CSV row that spans several, the last."""
    event: UsageEvent | BadLine


class EventFile(NamedTuple):
    lines: Iterator[Line]
    size_bytes: int | None
    """As it lies on disk; None: it is a stream."""
    read_bytes: Callable[[], int]
    """How much of that was read."""


@contextmanager
def open_events(path: str, file_format: str | None) -> Iterator[EventFile]:
    """Open `path` (`-`: stdin) as events; the format is its name's where `file_format` is None.

    Raises CommandError for a file that cannot be read or whose header is wrong; while it is read, for one that is cut.
    """
    chosen = file_format or _format_of(path)
    with _opened(path) as raw:
        size_bytes = None if path == "-" else Path(path).stat().st_size
        read = _csv_lines if chosen == "csv" else _json_lines
        yield EventFile(_told(path, read(_unpacked(raw))), size_bytes, raw.tell if size_bytes is not None else _zero)


def _zero() -> int:
    return 0


def _format_of(path: str) -> str:
    name = path.lower().removesuffix(".gz")
    found = _SUFFIXES.get(Path(name).suffix)
    if found is None:
        message = f"{path}: name the format with --format csv or --format ndjson; the file's name does not tell it"
        raise CommandError(message)
    return found


@contextmanager
def _opened(path: str) -> Iterator[io.BufferedReader]:
    if path == "-":
        yield cast(io.BufferedReader, sys.stdin.buffer)
        return
    try:
        file = Path(path).open("rb")  # noqa: SIM115 - only opening it is the user's error
    except OSError as exc:
        message = f"{path}: {exc.strerror}"
        raise CommandError(message) from exc
    with file:
        yield file


def _unpacked(raw: io.BufferedReader) -> BinaryIO:
    """A file packed with gzip is known by its first bytes, so that a stream may be packed too."""
    is_packed = raw.peek(2)[:2] == b"\x1f\x8b"
    return cast(BinaryIO, gzip.open(raw, "rb")) if is_packed else raw


def _told(path: str, lines: Iterator[Line]) -> Iterator[Line]:
    """The lines, and what goes wrong while they are read as what a person can mend."""
    number = 0
    try:
        for line in lines:
            number = line.number
            yield line
    except (EOFError, OSError) as exc:
        message = f"{path}: cannot be read after line {number}: {exc}; what was read before was sent"
        raise CommandError(message) from exc


def _json_lines(file: BinaryIO) -> Iterator[Line]:
    number = 0
    while raw := file.readline(_LINE_BYTES_MAX + 1):
        number += 1
        if len(raw) > _LINE_BYTES_MAX:
            _skip_line(file, raw)
            yield Line(number, BadLine(None, f"is longer than {_LINE_BYTES_MAX} bytes"))
        elif raw.strip():
            yield Line(number, _event(lambda raw=raw: from_native_json(raw)))  # type: ignore[misc]


def _skip_line(file: BinaryIO, raw: bytes) -> None:
    while raw and not raw.endswith(b"\n"):
        raw = file.readline(_LINE_BYTES_MAX)


def _csv_lines(file: BinaryIO) -> Iterator[Line]:
    # Bytes that are no UTF-8 become marks that cannot be written again, and so are found in the cell that has them.
    text = io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline="")
    try:
        yield from _csv_rows(csv.reader(text, strict=True))
    finally:
        text.detach()  # else it closes the file when it is forgotten


def _csv_rows(rows: "Reader") -> Iterator[Line]:
    columns = tuple(next(rows, ()))
    try:
        check_csv_columns(columns)
    except InvalidField as exc:
        message = f"the header: column {exc}"
        raise CommandError(message) from exc
    while True:
        try:
            cells = next(rows)
        except StopIteration:
            return
        except csv.Error as exc:
            yield Line(rows.line_num, BadLine(None, f"is no CSV: {exc}"))
            continue
        if cells:
            yield Line(rows.line_num, _event(lambda cells=cells: _csv_event(columns, cells)))  # type: ignore[misc]


def _csv_event(columns: tuple[str, ...], cells: list[str]) -> UsageEvent:
    if len(cells) != len(columns):
        msg = f"has {len(cells)} cells where the header has {len(columns)}"
        raise Undecodable(msg)
    row = dict(zip(columns, cells, strict=True))
    for name, text in row.items():
        if any("\udc80" <= char <= "\udcff" for char in text):
            raise InvalidField(name, "is not UTF-8")
    return from_csv_row(row)


def _event(read: Callable[[], UsageEvent]) -> UsageEvent | BadLine:
    try:
        return read()
    except InvalidField as exc:
        return BadLine(exc.field, exc.message)
    except Undecodable as exc:
        return BadLine(None, str(exc))

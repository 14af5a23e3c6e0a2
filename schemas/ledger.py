"""The ledger's records: facts as MessagePack arrays, with where they come from.

    [1, version, incarnation, partition, offset, seq, fact_count, log_ms, source, [fact type, fields…]]  a fact
    [2, version, incarnation, partition, offset, seq, part, parts, bytes]                                a piece of a large one

A fact's identity is (incarnation, partition, offset of the record that caused it, seq). The first fact of each record carries
the record as it was, and the offset of the record before it; each says how many facts its record has: a reader drops a repeat
and stops at a gap, be it of records, of a record's facts or of a fact's parts. The field lists are
the structs of `billing.facts`; fields are only ever added, at the end, with a default.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import msgspec

from billing.errors import BillingError, NotHonoured
from billing.facts import Fact, OrderHonoured
from billing.orders.fold import Heard
from billing.records import Command, Position
from schemas.codec import decode_record

__all__ = [
    "PART_BYTES_MAX",
    "LedgerGap",
    "LedgerReader",
    "Source",
    "SourceRecord",
    "encode_facts",
    "heard_in",
    "part_number",
    "position_in",
]

PART_BYTES_MAX: Final = 256 * 1024
"""A larger record is split, so that a fact that carries a full-sized source still fits every broker's limit."""
_VERSION: Final = 1
_FACT_TAG: Final = b"\x01"
"""Second byte of a whole fact, behind the array's header: told apart without decoding."""


class LedgerGap(BillingError):
    """The ledger lacks facts that others name: it must not be read as if it were whole."""


class Source(msgspec.Struct, frozen=True, array_like=True):
    """A record of `usage-events` as it was."""

    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    append_ms: int
    previous_offset: int
    """Offset of the record folded before it; -1 for a partition's first."""


class _FactRecord(msgspec.Struct, frozen=True, array_like=True, tag=1):
    version: int
    incarnation: int
    partition: int
    offset: int
    seq: int
    fact_count: int
    """How many facts the record caused: without it, one that is missing at the end could not be told."""
    log_ms: int
    source: Source | None
    fact: Fact


class _PartRecord(msgspec.Struct, frozen=True, array_like=True, tag=2):
    version: int
    incarnation: int
    partition: int
    offset: int
    seq: int
    part: int
    parts: int
    data: bytes


class SourceRecord(msgspec.Struct, frozen=True):
    """One record of `usage-events` with all that it caused, in order."""

    position: Position
    log_ms: int
    source: Source
    facts: tuple[Fact, ...]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_FactRecord | _PartRecord).decode
_decode_fact = msgspec.msgpack.Decoder(_FactRecord).decode


def encode_facts(position: Position, log_ms: int, source: Source, facts: Sequence[Fact]) -> list[bytes]:
    """The ledger's records for one source record, in order."""
    incarnation, partition, offset = position.incarnation, position.partition, position.offset
    fact_count = len(facts)
    records = []
    for seq, fact in enumerate(facts):
        first = None if seq else source
        data = _encode(_FactRecord(_VERSION, incarnation, partition, offset, seq, fact_count, log_ms, first, fact))
        if len(data) <= PART_BYTES_MAX:
            records.append(data)
        else:
            records += _split(position, seq, data)
    return records


def heard_in(told: SourceRecord) -> Heard | None:
    """The order that let the record through, as its first fact has it: what `billing.step` is given to fold it again.

    Raises NotHonoured where the fact holds no command; whether the command is an order for this record, `step` decides.
    """
    first = told.facts[0]
    if not isinstance(first, OrderHonoured):
        return None
    command = decode_record(first.order)
    if not isinstance(command, Command):
        message = f"{told.position}: what is said to have let the record through is no command"
        raise NotHonoured(message)
    return Heard(command, first.key, first.order, first.offset)


def position_in(value: bytes) -> Position:
    """Where the record lies whose fact, or piece of one, this is."""
    record = _decode(value)
    return Position(record.incarnation, record.partition, record.offset)


def part_number(value: bytes) -> int:
    """Which part of its fact this record is, from 0; 0 for a whole fact. A reader can begin only where it is 0."""
    return 0 if value[1:2] == _FACT_TAG else _part_of(_decode(value))


class LedgerReader:
    """Puts the ledger's records of one partition together again: whole source records, each once, without a gap.

    Feed it the records of one partition in order; a source record is given out when the next one begins or, by `flush`,
    at the end of what is committed (the facts of one record are committed together).
    """

    def __init__(self, *, after_offset: int | None = None) -> None:
        """`after_offset`: the last source offset already known; None to begin at whatever comes first."""
        self._known_offset = after_offset
        self._known_incarnation: int | None = None
        """Of the last record; None before the first, whose incarnation is taken as it comes."""
        self._open: list[_FactRecord] = []
        self._parts: list[_PartRecord] = []

    @property
    def is_within(self) -> bool:
        """Whether it holds a record, or pieces of a fact, that it has not given out yet."""
        return bool(self._open or self._parts)

    def feed(self, values: Iterable[bytes]) -> Iterator[SourceRecord]:
        """The source records that are complete now. Raises LedgerGap."""
        for value in values:
            record = self._whole(_decode(value))
            if record is None:
                continue
            if record.seq == 0:
                yield from self.flush()
                self._begin(record)
            elif self._open:
                self._continue(record)

    def flush(self) -> Iterator[SourceRecord]:
        """The source record that is still open, if any: call when all that is committed was fed. Raises LedgerGap."""
        if self._parts:
            raise _gap(self._parts[-1], f"part {self._parts[-1].part} is the last that came")
        if not self._open:
            return
        whole, self._open = self._open, []
        first = whole[0]
        if len(whole) != first.fact_count:
            raise _gap(first, f"{len(whole)} of its {first.fact_count} facts came")
        self._known_offset, self._known_incarnation = first.offset, first.incarnation
        assert first.source is not None, "the first fact carries its source"
        position = Position(first.incarnation, first.partition, first.offset)
        yield SourceRecord(position, first.log_ms, first.source, tuple(record.fact for record in whole))

    def _begin(self, record: _FactRecord) -> None:
        assert record.source is not None, f"the first fact of offset {record.offset} lacks its source"
        known = self._known_offset
        if known is not None and not self._follows(record, record.source.previous_offset, known):
            if self._is_repeat(record, known):
                return  # its first fact is dropped, and so are the others, which follow no open record
            raise _gap(record, f"it follows {record.source.previous_offset}, but the last one read is {known}")
        self._open = [record]

    def _follows(self, record: _FactRecord, previous_offset: int, known: int) -> bool:
        """Whether nothing lies between the last record and this one. A log that was made anew begins at its start again."""
        if previous_offset != known or self._known_incarnation is None:
            return previous_offset == known
        is_first_of_log = previous_offset >= record.offset
        return record.incarnation == self._known_incarnation + is_first_of_log

    def _is_repeat(self, record: _FactRecord, known: int) -> bool:
        incarnation = self._known_incarnation
        if incarnation is None:
            return record.offset <= known
        return (record.incarnation, record.offset) <= (incarnation, known)

    def _continue(self, record: _FactRecord) -> None:
        last = self._open[-1]
        if (record.offset, record.seq) != (last.offset, last.seq + 1):
            raise _gap(record, f"its fact {record.seq} follows fact {last.seq} of {last.offset}")
        self._open.append(record)

    def _whole(self, record: _FactRecord | _PartRecord) -> _FactRecord | None:
        """The fact that is complete with this record, if one is."""
        parts = self._parts
        if isinstance(record, _FactRecord):
            if parts:
                raise _gap(parts[-1], f"part {parts[-1].part} is followed by another fact")
            return record
        if record.part != len(parts) or any((p.offset, p.seq) != (record.offset, record.seq) for p in parts[:1]):
            raise _gap(record, f"part {record.part} came alone")
        parts.append(record)
        if len(parts) < record.parts:
            return None
        self._parts = []
        return _decode_fact(b"".join(part.data for part in parts))


def _gap(record: _FactRecord | _PartRecord, what: str) -> LedgerGap:
    return LedgerGap(f"ledger partition {record.partition}, offset {record.offset}: {what}")


def _part_of(record: _FactRecord | _PartRecord) -> int:
    return record.part if isinstance(record, _PartRecord) else 0


def _split(position: Position, seq: int, data: bytes) -> list[bytes]:
    pieces = [data[start : start + PART_BYTES_MAX] for start in range(0, len(data), PART_BYTES_MAX)]
    return [
        _encode(
            _PartRecord(_VERSION, position.incarnation, position.partition, position.offset, seq, n, len(pieces), piece)
        )
        for n, piece in enumerate(pieces)
    ]

"""Which statements the embedded ClickHouse refuses, and where a statement ends and an INSERT's data begins.

The engine's own access rights (`clickhouse_config.py`) refuse nearly all that would leave the data directory. What they
cannot refuse is refused here by name: the engine runs as `clickhouse-local` does, whose scalar `file()` and `INTO
OUTFILE` know no rights. A guard against mistakes and stray pages, not against the token's holder's patience.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import NamedTuple, NoReturn

from runtime.embedded import sql_words
from runtime.embedded.errors import EmbeddedError
from runtime.embedded.sql_lexer import Kind, Token, tokens


class Refused(EmbeddedError):
    """Raised for a statement that would reach outside the data directory; the message names the word."""


class Statement(NamedTuple):
    """A statement as the engine needs it.

    `sql` is the text up to an INSERT's data; `data_start` the offset of that data in what was given, and `data_format`
    its format, both None for statements that carry none. `answers` says whether the statement has a result, and
    `result_format` the format that it names for it, if any.
    """

    sql: bytes
    data_start: int | None
    data_format: str | None
    answers: bool
    result_format: str | None


_BEFORE_DATA = re.compile(rb"[ \t\f]*\r?\n?")


def read_statement(sql: bytes, parameters: Mapping[str, str]) -> Statement:
    """Take `sql` apart and check it; `parameters` are the values for its `{name:Type}`. Raises Refused, UnreadableSql.

    Of an INSERT with data in a format only the statement is looked at, since such data is never read as SQL. VALUES are
    expressions, so an INSERT of those is text to its end.
    """
    stream = tokens(sql)
    seen: list[Token] = []
    data_format = _read_to_data(stream, seen)
    if data_format is None:
        seen.extend(stream)
        _check(seen, parameters)
        return Statement(_text(sql, seen), None, None, _keyword(seen, 0) not in sql_words.SILENT, _result_format(seen))
    _check(seen, parameters)
    format_word, format_name = seen[-2:]
    return Statement(sql[: format_word.start], _data_start(sql, format_name.end), data_format, False, None)


def _read_to_data(stream: Iterator[Token], seen: list[Token]) -> str | None:
    """Read the head of an INSERT whose data follows, up to `FORMAT name`, into `seen`, and return that name.

    None as soon as it is clear that the statement is none.
    """
    depth = 0
    for token in stream:
        seen.append(token)
        depth += _depth_step(token)
        if len(seen) == 1 and _keyword(seen, 0) != "insert":
            return None
        if depth == 0 and _keyword(seen, -1) in sql_words.EXPRESSIONS_FOLLOW:
            return None
        if depth == 0 and len(seen) > 2 and _keyword(seen, -2) == "format" and token.kind is Kind.WORD:
            return None if token.name.lower() == "values" else token.name
    return None


def _data_start(sql: bytes, at: int) -> int:
    """Data begins behind the format's name, the blanks on its line, and at most one line end."""
    match = _BEFORE_DATA.match(sql, at)
    assert match is not None, "the pattern matches nothing, too"
    return match.end()


def _text(sql: bytes, seen: list[Token]) -> bytes:
    """The one statement without its semicolon. Raises Refused when there are two: the engine would run both."""
    ends = [index for index, token in enumerate(seen) if token.kind is Kind.SYMBOL and token.name == ";"]
    if not ends:
        return sql
    if any(token.name != ";" for token in seen[ends[0] :]):
        raise Refused("only one statement a request")
    return sql[: seen[ends[0]].start]


def _result_format(seen: list[Token]) -> str | None:
    """The name in the `FORMAT name` that ends the statement, SETTINGS and semicolon aside."""
    for index, token in reversed(list(enumerate(seen))):
        after_it = seen[index + 1].name.lower() if index + 1 < len(seen) else ";"
        if token.kind is Kind.WORD and _keyword(seen, index - 1) == "format" and after_it in (";", "settings"):
            return token.name
    return None


def _check(seen: list[Token], parameters: Mapping[str, str]) -> None:
    for token in seen:
        _check_name(token)
    for token, after in pairwise(seen):
        _check_call(token, after)
    if _keyword(seen, 0) in sql_words.MAKERS:
        _check_engines(seen)
    _check_identifiers(seen, parameters)


def _check_name(token: Token) -> None:
    name = token.name.lower()
    is_word = token.kind is Kind.WORD
    if name in sql_words.NAMES_REFUSED or (
        is_word and (name in sql_words.KEYWORDS_REFUSED or name.startswith("param_"))
    ):
        _refuse(token.name)


def _check_call(token: Token, after: Token) -> None:
    is_call = token.kind in (Kind.WORD, Kind.QUOTED) and after.kind is Kind.SYMBOL and after.name == "("
    if is_call and token.name.lower() in sql_words.CALLS_REFUSED:
        _refuse(f"{token.name}()")


def _check_engines(seen: list[Token]) -> None:
    """Every `ENGINE [=] name` outside brackets, up to the SELECT of a view, must name an engine that is allowed."""
    depth = 0
    for index, token in enumerate(seen):
        depth += _depth_step(token)
        if depth == 0 and _keyword(seen, index) == "select":
            return
        if depth == 0 and _keyword(seen, index) == "engine":
            named = [after for after in seen[index + 1 : index + 3] if after.name != "="][:1]
            if named and named[0].name.lower() not in sql_words.ENGINES_ALLOWED:
                _refuse(f"ENGINE {named[0].name}")


def _check_identifiers(seen: list[Token], parameters: Mapping[str, str]) -> None:
    """`{f:Identifier}` can stand for a function's name, at once or when a view that has it is used."""
    if not any(token.name.lower() == "identifier" for token in seen):
        return
    if _keyword(seen, 0) not in sql_words.READERS:
        _refuse("Identifier parameters outside a query")
    for value in parameters.values():
        if "\\" in value or value.strip('`" ').lower() in sql_words.NAMES_REFUSED:
            _refuse(f"the identifier {value}")


def _refuse(what: str) -> NoReturn:
    msg = f"{what} is refused: the embedded ClickHouse reads and writes nothing but its own tables"
    raise Refused(msg)


def _keyword(seen: list[Token], index: int) -> str:
    """The unquoted word at `index` in small letters, empty when there is another kind of token or none."""
    if not -len(seen) <= index < len(seen) or seen[index].kind is not Kind.WORD:
        return ""
    return seen[index].name.lower()


def _depth_step(token: Token) -> int:
    if token.kind is not Kind.SYMBOL:
        return 0
    return {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(token.name, 0)

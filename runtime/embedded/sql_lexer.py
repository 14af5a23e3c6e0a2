"""The words of a ClickHouse statement, told apart from its strings, comments and data, as ClickHouse's own lexer does.

Where it cannot be sure (an unfinished string, a character that ClickHouse has no use for outside quotes) it raises
instead of guessing: a guard that reads a statement differently from the engine guards nothing. A test compares it
with the engine's `tokenizeQuery` on random input.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple

from runtime.embedded.errors import EmbeddedError


class Kind(Enum):
    """What a token is. Space and comments are left out."""

    WORD = "word"  # keyword, name or number
    QUOTED = "quoted"  # a name in backquotes or double quotes
    LITERALS = "literals"  # strings, numbers, the commas between them and the brackets between rows of them
    SYMBOL = "symbol"  # one character


class Token(NamedTuple):
    """A token and where it lies: `sql[start:end]`.

    `name` is what a WORD or QUOTED name stands for, the character of a SYMBOL, and empty for LITERALS.
    """

    kind: Kind
    start: int
    end: int
    name: str


class UnreadableSql(EmbeddedError):
    """Raised when a statement cannot be told apart into tokens."""


# In one token as many literals as there are: with one each, 100,000 rows of VALUES took 8 s to read, now 0.1.
_STRING = rb"(?: '[^'\\]*+(?:(?:\\.|'')[^'\\]*+)*+' | \$(?P<tag>[A-Za-z0-9_]*+)\$.*?\$(?P=tag)\$ )"
_NUMBER = rb"(?: -?[0-9]++ (?:\.[0-9]++)?+ | \.[0-9]++ | NULL | null ) (?![A-Za-z0-9_$.])"
_TOKEN = re.compile(
    rb"""
      (?P<skip> [ \t\n\r\f\v]+ | --[^\n]* | //[^\n]* | \#[ !][^\n]* )
    | (?P<comment> /\* )
    | (?P<literals> (?: STRING | NUMBER | ,[ \t\n\r]*+ | \),[ \t\n\r]*+\( )++ )
    # A name with $ could hide the start of a heredoc, and of 1e-- the number takes the first dash: both are unreadable.
    | (?P<word> (?![0-9][A-Za-z0-9_]*[eEpP][+-](?![0-9])) [A-Za-z0-9_]+ (?![A-Za-z0-9_$]) )
    | (?P<quoted> "(?:[^"\\]|\\.|"")*" | `(?:[^`\\]|\\.|``)*` )
    # A dot that does not follow a name begins a number: .efile would be the number .e and a name.
    | (?P<symbol> [][(){};:=<>!+*/%&|^?~@-] | (?<=[A-Za-z0-9_"'`)\]}]) \. | \.(?=\*) )
    """.replace(b"STRING", _STRING).replace(b"NUMBER", _NUMBER),
    re.VERBOSE | re.DOTALL,
)
_COMMENT_EDGE = re.compile(rb"/\*|\*/")
_ESCAPES = {
    b"b": "\b",
    b"f": "\f",
    b"r": "\r",
    b"n": "\n",
    b"t": "\t",
    b"0": "\0",
    b"a": "\a",
    b"v": "\v",
    b"e": "\x1b",
}
_ESCAPE = re.compile(rb"\\(?:x([0-9A-Fa-f]{2})|(.))", re.DOTALL)


def tokens(sql: bytes) -> Iterator[Token]:
    """The tokens of `sql` in order, read as far as they are asked for. Raises UnreadableSql at the first that is none."""
    at = 0
    while at < len(sql):
        match = _TOKEN.match(sql, at)
        if match is None:
            msg = f"cannot read the statement from {sql[at : at + 40].decode(errors='replace')!r} on"
            raise UnreadableSql(msg)
        at = _comment_end(sql, at) if match["comment"] else match.end()
        if not (match["comment"] or match["skip"]):
            yield _token(match)


def _token(match: re.Match[bytes]) -> Token:
    if (word := match["word"]) is not None:
        return Token(Kind.WORD, match.start(), match.end(), word.decode())
    if (quoted := match["quoted"]) is not None:
        return Token(Kind.QUOTED, match.start(), match.end(), _unquoted(quoted))
    if (symbol := match["symbol"]) is not None:
        return Token(Kind.SYMBOL, match.start(), match.end(), symbol.decode())
    return Token(Kind.LITERALS, match.start(), match.end(), "")


def _comment_end(sql: bytes, start: int) -> int:
    """Where the comment that opens at `start` ends. Comments nest."""
    depth = 0
    for edge in _COMMENT_EDGE.finditer(sql, start):
        depth += 1 if edge.group() == b"/*" else -1
        if depth == 0:
            return edge.end()
    msg = "a comment is not closed"
    raise UnreadableSql(msg)


def _unquoted(quoted: bytes) -> str:
    r"""The name that a quoted identifier stands for: `fi\x6ce` is the name file."""
    quote = quoted[:1]
    return _ESCAPE.sub(_escaped, quoted[1:-1].replace(quote * 2, quote)).decode(errors="replace")


def _escaped(match: re.Match[bytes]) -> bytes:
    if match[1] is not None:
        return bytes([int(match[1], 16)])
    return _ESCAPES.get(match[2], match[2].decode("latin-1")).encode("latin-1")

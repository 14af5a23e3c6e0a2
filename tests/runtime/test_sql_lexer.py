"""The guard's lexer reads statements as ClickHouse's own does, or refuses to."""

from __future__ import annotations

import json
import random

import pytest
from clickhouse_connect.driver.client import Client

from runtime.embedded.sql_lexer import Kind, UnreadableSql, tokens

# Every sign by which a lexer can be led astray, and whole pieces in which a name hides.
SIGNS = [
    *("/*", "*/", "--", "//", "#", "# ", "#!", "\n", "\r", "'", '"', "`", "\\", "$", "$$", "$a$", ".", "1", "0x", "1e"),
    *(
        "1e-",
        "1e+",
        "0x1p-",
        "e5",
        "x'",
        "b'",
        "N'",
        "\u2018",
        "\u2019",
        "\u201c",
        "\u201d",
        "\u2212",
        "\xa0",
        "\u2003",
        "é",
        "@@",
        "-",
        "+",
    ),
    *("::", "->", "{", "}", "_", "a", "p", "file", "\t", "\\x6c", ";", "1_0"),
]
PIECES = [
    *("'a'", "'it''s'", "'\\''", "`file`", '"fi""le"', "`a``b`", "/* x */", "/* /* */ */", "-- '\n", "// '\n", "# '\n"),
    *("#! `\n", "$a$ ' $a$", "$$ x $$", "file", " ", "(", ")", ",", "1"),
]


@pytest.mark.parametrize(
    ("sql", "names"),
    [
        ('select a, `b c`, "d" from e', ["select", "a", "b c", "d", "from", "e"]),
        (r"`fi\x6ce` `a\`b` `c``d`", ["file", "a`b", "c`d"]),
        ("'x file' a -- file\n /* file /* file */ file */ b // file\n c # file", ["a", "b", "c"]),
        ("$$ file $$ a $x$ ' $y$ $x$ b", ["a", "b"]),
        ("a.b.1 1.5 c 1e-5", ["a", "b", "c", "1e"]),
    ],
    ids=[
        "names",
        "escapes are resolved",
        "comments nest and strings hide",
        "heredocs",
        "numbers hide unless they could be names",
    ],
)
def test_names_are_found(sql: str, names: list[str]) -> None:
    found = [token.name for token in tokens(sql.encode()) if token.kind in (Kind.WORD, Kind.QUOTED)]
    assert found == names


@pytest.mark.parametrize(
    "sql",
    [
        "'a",
        "`a",
        "/* a",
        "/* /* */",
        "a$b$ c $b$",
        "1e--file",
        ".5file",
        ".efile",
        "1, .1e+1file",
        "#a",
        "é",
        "a\0",
        "$a$ b",
        "\u2018a\u2019",
    ],
)
def test_what_could_be_read_in_two_ways_is_not_read(sql: str) -> None:
    with pytest.raises(UnreadableSql):
        list(tokens(sql.encode()))


@pytest.mark.parametrize("seed", range(4))
def test_every_name_that_the_engine_sees_is_seen(seed: int, client: Client) -> None:
    """Compared with `tokenizeQuery` for 500 made-up statements a seed; the seed is the test's own name."""
    rng = random.Random(seed)
    statements = ["".join(_choice(rng) for _ in range(rng.randint(1, 12))) for _ in range(500)]
    readable = 0
    for statement, theirs in zip(statements, _engine_tokens(client, statements), strict=True):
        sql = statement.encode()
        try:
            ours = {(token.start, token.end) for token in tokens(sql) if token.kind in (Kind.WORD, Kind.QUOTED)}
        except UnreadableSql:
            continue
        readable += 1
        for begin, end, kind in theirs:
            if kind.startswith("Error"):
                break
            assert kind not in ("BareWord", "QuotedIdentifier") or (begin, end) in ours, (statement, begin, end)
    assert readable > 150


def _choice(rng: random.Random) -> str:
    return rng.choice(SIGNS) if rng.random() < 0.2 else rng.choice(PIECES)


def _engine_tokens(client: Client, statements: list[str]) -> list[list[tuple[int, int, str]]]:
    rows = client.query(
        "SELECT arrayMap(s -> toJSONString(tokenizeQuery(s)), {statements:Array(String)})",
        parameters={"statements": statements},
    ).result_rows
    return [
        [(int(begin), int(end), kind) for begin, end, kind in map(dict.values, json.loads(row))] for row in rows[0][0]
    ]

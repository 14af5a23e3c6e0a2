"""What billing may import: nothing that reads a clock, a file, a network, a random number or an environment."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

BILLING = Path(__file__).parents[2] / "billing"
ALLOWED = {
    "billing", "bisect", "calendar", "collections", "datetime", "decimal", "enum", "functools", "hashlib", "msgspec", "re",
    "typing", "cryptography",  # to verify an Ed25519 signature is a function of key, message and signature
}  # fmt: skip
CLOCKS = {"now", "today", "utcnow", "fromtimestamp"}
"""Of `datetime`, which is allowed for the calendar's arithmetic alone."""


def impurities(source: str) -> list[str]:
    """What of a module's source is not pure."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] not in ALLOWED]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] not in ALLOWED:
            found.append(str(node.module))
        elif isinstance(node, ast.Attribute) and node.attr in CLOCKS:
            found.append(node.attr)
        elif isinstance(node, (ast.AsyncFunctionDef, ast.Await, ast.Global)):
            found.append(type(node).__name__)
        elif isinstance(node, ast.Constant) and isinstance(node.value, float):
            found.append(f"the float {node.value}")
        elif isinstance(node, ast.Name) and node.id in ("float", "open", "print", "id", "hash", "input"):
            found.append(f"{node.id}()")
        elif isinstance(node, ast.FormattedValue) and node.conversion == ord("r"):
            found.append("!r, which asks Unicode's tables")
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            found.append("/, which makes a float")
    return found


@pytest.mark.parametrize("path", sorted(BILLING.rglob("*.py")), ids=lambda path: path.relative_to(BILLING).as_posix())
def test_billing_imports_nothing_impure(path: Path) -> None:
    assert impurities(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "import time",
        "import os.path",
        "from random import random",
        "from schemas.codec import encode",
        "from datetime import datetime\ndatetime.now()",
        "async def decide(): ...",
        "RATE = 0.1",
        "share = used / limit",
        "order = hash(key)",
        "message = f'{text!r} is no quantity'",
    ],
)
def test_the_check_finds_that(source: str) -> None:
    assert impurities(source)

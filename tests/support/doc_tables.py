"""The tables of docs/operations.md that are made from the code: `python -m tests.support.doc_tables` writes them anew."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

from pydantic import SecretStr
from pydantic_core import PydanticUndefined

import observe.health
import runtime.settings
from observe.metrics import METRICS
from runtime.settings import Settings

__all__ = ["OPERATIONS", "filled", "main"]

OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"


def filled(text: str) -> str:
    """The document with its tables as the code has them."""
    for name, rows in (("settings", settings()), ("metrics", metrics()), ("checks", checks())):
        table = "\n".join(rows)
        pattern = re.compile(rf"(<!-- {name}: [^\n]*-->\n).*?(<!-- /{name} -->)", re.DOTALL)
        assert pattern.search(text), f"{OPERATIONS.name} has no place for {name}"
        text = pattern.sub(lambda found, table=table: f"{found[1]}\n{table}\n\n{found[2]}", text)  # type: ignore[misc]
    return text


def settings() -> Iterator[str]:
    """Every setting, with what its docstring says."""
    told = {**docs_of(runtime.settings, "LogSettings"), **docs_of(runtime.settings, "Settings")}
    yield "| variable | default | is |"
    yield "|---|---|---|"
    for name, field in Settings.model_fields.items():
        yield f"| `METERLOG_{name.upper()}` | {_default(field.default)} | {told.get(name, '')} |"


def metrics() -> Iterator[str]:
    yield "| metric | kind | of | labels | is |"
    yield "|---|---|---|---|---|"
    for metric in METRICS:
        yield f"| `{metric.name}` | {metric.kind} | {metric.role} | {', '.join(metric.labels)} | {metric.meaning} |"


def checks() -> Iterator[str]:
    yield "| check | is |"
    yield "|---|---|"
    for name, text in docs_of(observe.health, "CheckName").items():
        yield f"| `{name.lower()}` | {text} |"


def docs_of(module: object, name: str) -> dict[str, str]:
    """The docstring below each field or member of a class, on one line; empty where there is none."""
    tree = ast.parse(inspect.getsource(module))  # type: ignore[arg-type]
    (body,) = (node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    found: dict[str, str] = {}
    for node, after in zip(body, [*body[1:], None], strict=True):
        match node:
            case ast.AnnAssign(target=ast.Name(id=field)) | ast.Assign(targets=[ast.Name(id=field)]):
                found[field] = ""
                match after:
                    case ast.Expr(value=ast.Constant(value=str(text))):
                        found[field] = " ".join(text.split())
    found.pop("model_config", None)
    return found


def _default(value: object) -> str:
    match value:
        case None | SecretStr() | "":
            return ""
        case _ if value is PydanticUndefined:
            return "required"
        case _:
            return f"`{value}`"


def main() -> None:
    OPERATIONS.write_text(filled(OPERATIONS.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()

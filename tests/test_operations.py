"""docs/operations.md and the alert rules are true of the code: settings, metrics, checks, commands and runbooks exist."""

from __future__ import annotations

import importlib
import pkgutil
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

import observe
from observe.metrics import METRICS, Kind
from runtime.cli import app
from runtime.settings import Settings
from tests.support.doc_tables import OPERATIONS, filled
from tests.test_house import log_event_names

ROOT = Path(__file__).parents[1]
TEXT = OPERATIONS.read_text(encoding="utf-8")
ALERTS = ROOT / "examples" / "alerts.yml"
NOT_OURS = {"up", "process_start_time_seconds"}
"""Prometheus' own, and its Python client's."""
FUNCTIONS = {"sum", "max", "by", "rate", "increase", "changes", "histogram_quantile", "or", "vector"}


def rules() -> list[dict[str, Any]]:
    loaded = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))
    return [rule for group in loaded["groups"] for rule in group["rules"]]


def exported_names() -> dict[str, set[str]]:
    """Every series' name with its labels."""
    found: dict[str, set[str]] = {}
    for metric in METRICS:
        labels = {*metric.labels, "instance", "job"}
        if metric.kind is Kind.HISTOGRAM:
            found |= {
                f"{metric.name}_sum": labels,
                f"{metric.name}_count": labels,
                f"{metric.name}_bucket": labels | {"le"},
            }
        else:
            found[metric.name] = labels
    return found


def faults_in(expr: str) -> list[str]:
    """What a rule's expression uses that is not there."""
    known = exported_names()
    bare = re.sub(r'"[^"]*"|\[\w+\]', "", expr)
    labels = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)(?!=)", re.sub(r"==", " ", bare)))
    labels |= {label for group in re.findall(r"by \(([^)]*)\)", bare) for label in re.split(r",\s*", group)}
    words = set(re.findall(r"[a-zA-Z_]\w*", bare)) - labels
    series = words - FUNCTIONS - NOT_OURS
    allowed = set().union(*(known.get(name, set()) for name in series), {"job", "instance"})
    return sorted(
        [*(name for name in series if name not in known), *(label for label in labels if label not in allowed)]
    )


def headings() -> set[str]:
    """Anchors as they are made from headings."""
    return {
        re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in TEXT.splitlines()
        if line.startswith("#")
    }


def commands_in(text: str) -> list[str]:
    """Every `meterlog …` that stands in backticks."""
    return [found for found in re.findall(r"`(meterlog [^`]+)`", text) if "…" not in found.split()[1]]


def fault_of(command: str) -> str | None:
    """What of a command line does not exist; words in capitals stand for values."""
    node: Any = get_command(app)
    for word in shlex.split(command)[1:]:
        if word.startswith("-"):
            if word not in {option for parameter in node.params for option in parameter.opts}:
                return word
        elif hasattr(node, "commands"):
            if word not in node.commands:
                return word
            node = node.commands[word]
    return None


def test_the_tables_are_those_of_the_code() -> None:
    """Otherwise: python -m tests.support.doc_tables."""
    assert filled(TEXT) == TEXT


def test_a_setting_that_is_not_in_the_table_is_found() -> None:
    line = next(line for line in TEXT.splitlines() if line.startswith("| `METERLOG_PARTITIONS`"))
    assert filled(TEXT.replace(f"{line}\n", "")) == TEXT


def test_every_setting_says_what_it_is_for() -> None:
    plain = {
        "clickhouse_url",
        "clickhouse_user",
        "clickhouse_password",
        "api_host",
        "api_port",
        "replication",
        "log_level",
    }
    undocumented = re.findall(r"^\| `METERLOG_(\w+)` \| [^|]* \|  \|$", TEXT, re.MULTILINE)
    assert {name.lower() for name in undocumented} <= plain


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_an_alert_uses_what_exists_and_has_its_runbook(rule: dict[str, Any]) -> None:
    assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
    assert re.fullmatch(r"Meterlog\w+", rule["alert"])
    assert re.fullmatch(r"\d+[smh]", rule.get("for", "0s"))
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert set(rule["annotations"]) == {"summary", "runbook"}
    assert faults_in(rule["expr"]) == []
    assert rule["expr"].count("(") == rule["expr"].count(")")
    document, _, anchor = rule["annotations"]["runbook"].partition("#")
    assert document == "docs/operations.md"
    assert anchor in headings()


def test_each_alert_has_a_name_of_its_own() -> None:
    names = [rule["alert"] for rule in rules()]
    assert len(names) == len(set(names))


def test_a_runbook_s_heading_is_an_alert() -> None:
    section = TEXT.split("## Alerts")[1].split("\n## ")[0]
    assert set(re.findall(r"^### (\w+)$", section, re.MULTILINE)) <= {rule["alert"] for rule in rules()}


@pytest.mark.parametrize(
    ("expr", "faults"),
    [
        ("max(meterlog_worker_lags) > 1", ["meterlog_worker_lags"]),
        ("rate(meterlog_worker_commit_seconds[5m]) > 1", ["meterlog_worker_commit_seconds"]),
        ("max by (customer) (meterlog_worker_lag_offsets) > 1", ["customer"]),
        ('meterlog_worker_lag_offsets{topic="x"} > 1', ["topic"]),
        ("maximum(meterlog_worker_lag_offsets) > 1", ["maximum"]),
        ('meterlog_worker_lag_offsets{partition="1"} == 1', []),
    ],
)
def test_what_an_expression_uses_that_is_not_there_is_found(expr: str, faults: list[str]) -> None:
    assert faults_in(expr) == faults


@pytest.mark.parametrize("command", sorted(set(commands_in(TEXT))))
def test_a_command_that_the_document_names_exists(command: str) -> None:
    assert fault_of(command) is None


def test_a_command_that_does_not_exist_is_found() -> None:
    assert fault_of("meterlog dead-letters resurrect") == "resurrect"
    assert fault_of("meterlog audit --loudly") == "--loudly"


def test_a_variable_that_the_document_names_is_a_setting() -> None:
    named = set(re.findall(r"METERLOG_([A-Z_]+)", TEXT))
    assert {name.lower() for name in named if name} <= set(Settings.model_fields)


def test_an_event_that_the_document_names_is_declared() -> None:
    modules = [importlib.import_module(f"observe.{found.name}") for found in pkgutil.iter_modules(observe.__path__)]
    declared = {name for module in modules for name in log_event_names(module)}
    firsts = "|".join({name.partition(".")[0] for name in declared})
    named = set(re.findall(rf"`((?:{firsts})(?:\.[a-z_]+)+)`", TEXT))
    assert named
    assert named <= declared

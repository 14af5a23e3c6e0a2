"""The house's own rules: READMEs name tests that exist, imports point one way, and nothing names a machine."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from enum import StrEnum
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Literal, get_args, get_origin

import pytest

import observe

REPOSITORY = Path(__file__).parents[1]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
ROOMS: list[str] = PROJECT["tool"]["importlinter"]["root_packages"]

REFERENCE = re.compile(r"`(?P<file>tests/[\w/]+\.py)?::(?P<name>\w+(?:::\w+)*)`")
"""A test that a README names; without a file, of the file that was named before."""


@cache
def tracked() -> tuple[Path, ...]:
    """The repository's files."""
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if listing.returncode != 0:
        pytest.skip("no git checkout: which files are the repository's is not known", allow_module_level=True)
    return tuple(path for name in listing.stdout.split("\0") if name and (path := REPOSITORY / name).is_file())


def documents() -> list[Path]:
    return [path for path in tracked() if path.suffix == ".md"]


@cache
def names_in(file: Path) -> frozenset[str]:
    """What can be named in a test file: functions, classes, and the methods of classes."""
    if not file.is_file():
        return frozenset()
    names = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                names.add(name)
            case ast.ClassDef(name=name, body=body):
                names |= {name, *(f"{name}::{part.name}" for part in body if isinstance(part, ast.FunctionDef))}
            case ast.Assign(targets=[ast.Name(id=name)]):
                names.add(name)
    return frozenset(name for name in names if name.startswith(("test", "Test")))


def references(text: str) -> list[tuple[str, str]]:
    """Each test that a text names: its file and its name."""
    found = []
    file = ""
    for match in REFERENCE.finditer(text):
        file = match["file"] or file
        found.append((file, match["name"]))
    return found


def missing_tests(text: str) -> list[str]:
    return [f"{file}::{name}" for file, name in references(text) if name not in names_in(REPOSITORY / file)]


def unguarded(text: str) -> list[str]:
    """The invariants of a README that name no test."""
    _, _, section = text.partition("\n## Invariants\n")
    section = section.partition("\n## ")[0]
    bullets = re.split(r"\n(?=- )", section)[1:]
    return [bullet for bullet in bullets if not references(bullet) and "by the same" not in bullet]


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_every_test_that_a_document_names_exists(path: Path) -> None:
    assert missing_tests(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_has_a_readme(room: str) -> None:
    """Of its own, or one for each room in it."""
    inner = [path for path in (REPOSITORY / room).iterdir() if (path / "__init__.py").is_file()]
    readmes = [(path / "README.md").is_file() for path in inner]
    assert (REPOSITORY / room / "README.md").is_file() or (readmes and all(readmes))


@pytest.mark.parametrize("room", ROOMS)
def test_every_invariant_names_its_guard(room: str) -> None:
    for path in documents():
        if path.name == "README.md" and path.relative_to(REPOSITORY).parts[0] == room:
            assert unguarded(path.read_text(encoding="utf-8")) == []


def test_a_named_test_that_is_not_there_is_found() -> None:
    text = (
        "guarded by `tests/test_house.py::test_every_room_has_a_readme` and `::test_that_nobody_wrote`,"
        " by `tests/test_nothing.py::test_it` and `tests/billing/test_model.py::TestFoldBesideBook`"
    )
    assert missing_tests(text) == ["tests/test_house.py::test_that_nobody_wrote", "tests/test_nothing.py::test_it"]


def test_an_invariant_without_a_guard_is_found() -> None:
    held, not_held = "- Held — guarded by\n  `tests/test_house.py::test_x`.", "- Not held."
    text = f"# A room\n\n## Invariants\n\n{held}\n{not_held}\n\n## Times\n\n- No invariant."
    assert unguarded(text) == [f"{not_held}\n"]


# Hosts that packages come from, and folders that exist on one machine only: a mirror, a developer's home, a build's folder.
REGISTRY = re.compile(
    r"pypi\.org|pythonhosted\.org|registry\.npmjs|registry\.yarnpkg|repo1?\.maven|maven\.org/maven2|central\.sonatype"
    r"|docker\.io/|ghcr\.io|quay\.io|gcr\.io|proxy\.golang\.org|crates\.io|--(?:extra-)?index-url|artifactory|nexus",
    re.IGNORECASE,
)
MACHINE_PATH = re.compile(
    r"(?<![\w.~/$}*-])/(?:home|Users|root|work|mnt|media|private|workspace|builds)/(?!someone\b)[\w.]|[A-Z]:\\Users\\"
)
OWN_PATTERNS = Path(__file__)


def texts() -> list[tuple[Path, str]]:
    found = []
    for path in tracked():
        data = path.read_bytes()
        if path != OWN_PATTERNS and b"\0" not in data[:8_000]:
            found.append((path.relative_to(REPOSITORY), data.decode("utf-8", "replace")))
    return found


@pytest.mark.parametrize("pattern", [REGISTRY, MACHINE_PATH], ids=["registry", "path of a machine"])
def test_nothing_names_a(pattern: re.Pattern[str]) -> None:
    named = [f"{path}: {match.group()}" for path, text in texts() for match in pattern.finditer(text)]
    assert named == []


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (REGISTRY, "pip install --index-url https://mirror.example/simple"),
        (REGISTRY, "https://files.pythonhosted.org/packages/x.whl"),
        (REGISTRY, "<url>https://repo.maven.apache.org/maven2</url>"),
        (REGISTRY, "image: ghcr.io/somebody/kafka:4"),
        (MACHINE_PATH, "see /home/alice/meterlog/notes.md"),
        (MACHINE_PATH, 'DATA = "/Users/alice/data"'),
        (MACHINE_PATH, "`/root/.m2/settings.xml`"),
        (MACHINE_PATH, r"C:\Users\alice"),
    ],
)
def test_the_patterns_find_that(pattern: re.Pattern[str], text: str) -> None:
    assert pattern.search(text)


@pytest.mark.parametrize(
    "text",
    [
        "http://maven.apache.org/POM/4.0.0",
        "a cache of jars in ~/.m2/repository",
        "/v1/events",
        "$HOME/root/x",
        "/workers/",
    ],
)
def test_the_patterns_let_that_pass(text: str) -> None:
    assert not REGISTRY.search(text)
    assert not MACHINE_PATH.search(text)


NO_EVENTS = {"observe.figures", "observe.health", "observe.metrics", "observe.waiting"}


def log_event_names(module: ModuleType) -> list[str]:
    """What a module of `observe` declares, as an enum or as a Literal."""
    names: list[str] = []
    for name, declared in vars(module).items():
        if not name.endswith("Event"):
            continue
        if isinstance(declared, type) and issubclass(declared, StrEnum):
            names += [member.value for member in declared]
        elif get_origin(declared) is Literal:
            names += get_args(declared)
    return names


def test_a_name_of_a_log_event_is_used_once() -> None:
    modules = [importlib.import_module(f"observe.{found.name}") for found in pkgutil.iter_modules(observe.__path__)]
    declared = {module.__name__: log_event_names(module) for module in modules}
    assert {name for name, names in declared.items() if not names} == NO_EVENTS
    counts = Counter(name for names in declared.values() for name in names)
    assert [name for name, count in counts.items() if count > 1] == []
    assert [name for name in counts if not re.fullmatch(r"[a-z_]+(\.[a-z_]+)+", name)] == []


PLANTED = {
    "schemas/planted.py": ("import streams.port", "schemas is not allowed to import streams"),
    "api/planted.py": ("from sinks import clickhouse", "api is not allowed to import sinks"),
    "sinks/planted.py": ("import streams.port", "sinks is not allowed to import streams"),
    "billing/planted.py": ("from schemas.codec import encode", "billing is not allowed to import schemas"),
    "streams/planted.py": ("import runtime.settings", "streams is not allowed to import runtime"),
    "billing/clock.py": ("import time", "billing is not allowed to import time"),
    "observe/planted.py": ("import billing.money", "observe is not allowed to import billing"),
}
"""By file: an import that points the wrong way, and what the linter says of it."""


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("lint-imports")
    return subprocess.run([str(program), "--no-cache"], cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def copy_of_the_house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("house")
    shutil.copy(REPOSITORY / "pyproject.toml", folder)
    for room in ROOMS:
        shutil.copytree(REPOSITORY / room, folder / room, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def test_imports_that_point_the_wrong_way_are_found(copy_of_the_house: Path) -> None:
    before = lint_imports(copy_of_the_house)
    assert before.returncode == 0, before.stdout
    for file, (line, _) in PLANTED.items():
        (copy_of_the_house / file).write_text(f'"""Planted."""\n\n{line}\n', encoding="utf-8")
    after = lint_imports(copy_of_the_house)
    assert after.returncode == 1
    said = " ".join(after.stdout.split())
    assert [message for _, message in PLANTED.values() if message not in said] == []

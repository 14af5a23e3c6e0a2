"""The engine overrides internals of Faust and aiokafka: a release that changes one of them must not pass unread."""

from __future__ import annotations

import hashlib
import importlib
import inspect
from typing import Any

import pytest

from streams import app, assignor, consumer, header_names, recovery, tables
from tests.streams.faust_pins import PINS

CASES = [(name, pinned, why) for why, functions in PINS.items() for name, pinned in functions.items()]


def digest(name: str) -> str:
    """Of the source of `module:Class.attribute`, blank lines and comments aside."""
    module, path = name.split(":")
    found: Any = importlib.import_module(module)
    for part in path.split("."):
        found = inspect.getattr_static(found, part)
    if isinstance(found, property):
        found = found.fget
    found = getattr(found, "fun", found)  # a task of mode's services
    found = getattr(found, "__func__", found)  # a class or static method
    lines = (line.rstrip() for line in inspect.getsource(inspect.unwrap(found)).splitlines())
    kept = [line for line in lines if line and not line.lstrip().startswith("#")]
    return hashlib.sha256("\n".join(kept).encode()).hexdigest()[:16]


@pytest.mark.parametrize(("name", "pinned", "why"), CASES, ids=[name for name, _, _ in CASES])
def test_source_is_the_one_that_was_read(name: str, pinned: str, why: str) -> None:
    assert digest(name) == pinned, f"{name} has changed. Read it, and check again that {why}; then pin {digest(name)}"


def test_a_changed_source_is_noticed() -> None:
    """The guard guards: another function's source does not have this one's digest."""
    name, pinned, _ = CASES[0]
    assert digest("faust.app.base:App.on_start") != pinned == digest(name)


def overriding() -> list[tuple[str, Any, str]]:
    """(name, function, `module:Class.name` of what it overrides) for each method of ours over one of theirs."""
    found = []
    for module in (app, assignor, consumer, header_names, recovery, tables):
        for cls in vars(module).values():
            if inspect.isclass(cls) and cls.__module__ == module.__name__:
                found += [(f"{cls.__name__}.{name}", *pair) for name, pair in _overrides_of(cls)]
    return found


def _overrides_of(cls: type) -> list[tuple[str, tuple[Any, str]]]:
    theirs = [base for base in cls.__mro__[1:] if base.__module__.split(".")[0] in ("faust", "mode", "aiokafka")]
    found = []
    for name, value in vars(cls).items():
        base = next((base for base in theirs if callable(vars(base).get(name)) or _is_task(vars(base).get(name))), None)
        if base is not None and not name.startswith("__") and not inspect.isclass(value):
            found.append((name, (value, f"{base.__module__}:{base.__qualname__}.{name}")))
    return found


def _is_task(value: Any) -> bool:
    return isinstance(value, property) or hasattr(value, "fun")


def test_every_override_says_what_it_overrides_and_is_pinned() -> None:
    pinned = {name for functions in PINS.values() for name in functions}
    found = overriding()
    assert len(found) > 20, "the search found the overrides"
    for name, function, base in found:
        text = getattr(function, "fun", function).__doc__ or ""
        assert text.startswith("Overrides "), f"{name} does not say that it overrides {base}"
        assert base in pinned, f"{name} overrides {base}, whose source is not pinned"

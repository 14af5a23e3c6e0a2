"""Faults planted into the engine: each breaks one promise of its order, and a test must notice each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

FAULTS: Final[dict[str, Callable[[], None]]] = {}

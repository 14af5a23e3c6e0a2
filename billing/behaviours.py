"""Behaviour versions: the rules that were ever published, by number. The log says which hold (`switch_behaviour`).

A change of the rules, of the schemas that can be read or of the rows' format is a new version here, beside the old one: a
partition that was not switched yet goes on under the old rules in the new code. Version 1 holds from the genesis on.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple, Protocol

from billing import fold
from billing.catalog.types import Catalog
from billing.facts import Fact
from billing.records import Logged, Position
from billing.state import State

__all__ = ["BEHAVIOURS", "Behaviours", "Rules"]


class _Decide(Protocol):
    def __call__(self, state: State, catalog: Catalog, logged: Logged, position: Position, /) -> list[Fact]: ...


class _Evolve(Protocol):
    def __call__(self, state: State, catalog: Catalog, fact: Fact, position: Position, log_ms: int, /) -> None: ...


class _IsDue(Protocol):
    def __call__(self, state: State, now_ms: int, /) -> bool: ...


class Rules(NamedTuple):
    """One behaviour version; see `billing.fold`, which has the newest."""

    decide: _Decide
    evolve: _Evolve
    is_due: _IsDue


Behaviours = Mapping[int, Rules]

BEHAVIOURS: Final[Behaviours] = {1: Rules(fold.decide, fold.evolve, fold.is_due)}

"""Laws that hold for every log: same log, same facts; facts alone are the state; repeats change nothing."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from billing.catalog.types import Catalog
from billing.facts import Fact
from billing.fold import decide, evolve
from billing.records import Logged, Position, Tick
from billing.state import MemoryState, State
from tests.billing.harness import CATALOG, DAY_MS, GENESIS, T0_MS, Entry, Folding, rows_of, usage
from tests.billing.logs import logs

REPOSITORY = Path(__file__).parents[2]


@given(logs())
def test_the_same_log_gives_the_same_ledger_byte_for_byte(log: list[Entry]) -> None:
    assert Folding().extend(log).ledger == Folding().extend(log).ledger


@given(logs(), st.data())
def test_a_log_cut_anywhere_gives_the_same(log: list[Entry], data: st.DataObject) -> None:
    cut = data.draw(st.integers(min_value=0, max_value=len(log)))
    whole = Folding().extend(log)
    before = Folding().extend(log[:cut])
    after = Folding(state=before.state, offset=before.next_offset).extend(log[cut:])
    assert before.ledger + after.ledger == whole.ledger
    assert rows_of(after.state) == rows_of(whole.state)


@given(logs())
def test_the_facts_alone_are_the_state(log: list[Entry]) -> None:
    folding = Folding().extend(log)
    again = MemoryState()
    for fact, position, log_ms in folding.facts:
        evolve(again, CATALOG, fact, position, log_ms)
    assert rows_of(again) == rows_of(folding.state)


@given(logs())
def test_deciding_writes_nothing(log: list[Entry]) -> None:
    """The harness hands `decide` a state that refuses writes; here, no row may be changed in place either."""

    def decide_and_look(state: State, catalog: Catalog, logged: Logged, position: Position) -> list[Fact]:
        before = rows_of(folding.state)
        facts = decide(state, catalog, logged, position)
        assert rows_of(folding.state) == before
        assert decide(state, catalog, logged, position) == facts, "asked again, it says the same"
        return facts

    folding = Folding(decide=decide_and_look, genesis=None)
    folding.extend([Entry(GENESIS, None), *log])


@given(logs())
def test_a_repeat_changes_no_row(log: list[Entry]) -> None:
    """Whatever was counted comes once more, at the log's end: a duplicate, or too old."""
    folding = Folding().extend(log)
    before = rows_of(folding.state)
    for row in list(folding.state.seen.rows.values()):
        first = log[row.first_offset - 1]
        folding.append(Entry(first.record, first.key, log[-1].log_ms))
    assert rows_of(folding.state) == before


def digest_of_a_log() -> str:
    """A log with many labels and properties, folded: every order in its ledger must come from the log."""
    folding = Folding()
    for n in range(300):
        customer_id, properties = f"c{n % 3}", {f"p{n % 7}": "1", f"q{n % 5}": "2", "z": "3"}
        event = usage(f"e{n}", T0_MS, customer_id, event_type="llm.call", feature=f"f{n}", properties=properties)
        folding.append(Entry(event, f"acme/{customer_id}".encode()))
    folding.extend([Entry(Tick(0), None, T0_MS + 40 * DAY_MS)] * 4)
    return hashlib.sha256(b"".join(folding.ledger)).hexdigest()


def test_no_hash_seed_changes_the_ledger() -> None:
    """Python orders sets of text by a seed of its own in each process: none of that may reach a fact."""
    program = "from tests.billing.test_laws import digest_of_a_log; import sys; sys.stdout.write(digest_of_a_log())"
    ledgers = {
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert ledgers == {digest_of_a_log()}

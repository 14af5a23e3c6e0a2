"""`meterlog` as a person runs it: another process, its exit status and what it printed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

__all__ = ["METERLOG", "ROOT", "create_key", "run_json"]

METERLOG = (sys.executable, "-m", "runtime")
ROOT = Path(__file__).resolve().parents[2]
_TIMEOUT_S = 120.0


def run_json(*arguments: str, data_dir: Path) -> Any:
    """What the command printed, as JSON. Fails with all of its output when it does not exit 0."""
    argv = [*METERLOG, *arguments, "--data-dir", str(data_dir)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    assert done.returncode == 0, f"{' '.join(arguments)} exits {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return json.loads(done.stdout)


def create_key(data_dir: Path, org: str) -> str:
    """An API key of the org that may send and read."""
    key: str = run_json("keys", "create", "--org", org, "--scopes", "ingest,read", data_dir=data_dir)["key"]
    return key

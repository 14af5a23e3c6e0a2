"""`meterlog worker` under the bench's catalog: `python -m bench.worker`, told where everything is by METERLOG_… variables.

Nothing but the catalog is changed: the built-in one has no event that matches exactly two meters, or seven. With
METERLOG_BENCH_PROFILE=FILE the main thread runs under cProfile, which doubles its cost: for shares, never for figures.
"""

from __future__ import annotations

import cProfile
import os
import sys

from bench.shapes import bench_catalog
from runtime.processes import run_worker_process
from runtime.settings import load_settings

__all__ = ["main"]


def main() -> int:
    settings, catalog = load_settings(None), bench_catalog()
    profile_file = os.environ.get("METERLOG_BENCH_PROFILE")
    if profile_file is None:
        return run_worker_process(settings, catalog)
    profile = cProfile.Profile()
    try:
        return profile.runcall(run_worker_process, settings, catalog)
    finally:
        profile.dump_stats(profile_file)


if __name__ == "__main__":
    sys.exit(main())

"""`meterlog worker` under the bench's catalog: `python -m bench.worker`, told where everything is by METERLOG_… variables.

Nothing but the catalog is changed: the built-in one has no event that matches exactly two meters, or seven. With
METERLOG_BENCH_PROFILE=FILE the main thread runs under cProfile, which doubles its cost: for shares, never for figures.
"""

from __future__ import annotations

import cProfile
import os
import sys

from bench.shapes import bench_catalog
from runtime import processes
from runtime.settings import load_settings

__all__ = ["main"]


def main() -> int:
    processes.BUILTIN_CATALOG = bench_catalog()  # type: ignore[attr-defined]  # the name that its function reads
    settings = load_settings(None)
    profile_file = os.environ.get("METERLOG_BENCH_PROFILE")
    if profile_file is None:
        return processes.run_worker_process(settings)
    profile = cProfile.Profile()
    try:
        return profile.runcall(processes.run_worker_process, settings)
    finally:
        profile.dump_stats(profile_file)


if __name__ == "__main__":
    sys.exit(main())

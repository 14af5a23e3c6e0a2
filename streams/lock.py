"""One worker a data directory: two on the same tables would each write what the other does not read."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import IO

from streams.errors import DirectoryInUse

__all__ = ["hold_directory"]

_LOCK_FILE = "worker.lock"


def hold_directory(data_dir: Path) -> IO[str]:
    """Take the directory until the returned file is closed or the process ends, however it ends.

    Raises DirectoryInUse, naming the process that holds it.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    path = data_dir / _LOCK_FILE
    file = path.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        file.seek(0)
        holder = file.read().strip() or "unknown"
        file.close()
        message = f"{data_dir} belongs to a running worker (process {holder}); give each worker its own data directory"
        raise DirectoryInUse(message) from exc
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
    return file

"""One process at a time in a data directory."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import IO

from runtime.embedded.errors import DirectoryInUse


def hold(data_dir: Path) -> IO[str]:
    """Hold `data_dir` until the returned handle is closed or this process dies, in whichever way.

    Children do not inherit the hold. Raises DirectoryInUse.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    handle = (data_dir / "lock").open("a")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        handle.close()
        msg = f"{data_dir} is in use by another process. Stop that one first, or choose another data directory."
        raise DirectoryInUse(msg) from error
    return handle


def is_locked_by_other(file: Path) -> bool:
    """Whether another process holds a POSIX lock on `file`, as Java's FileLock is."""
    try:
        handle = file.open("r+b")
    except FileNotFoundError:
        return False
    with handle:
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
        return False

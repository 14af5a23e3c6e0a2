"""The class archive (AppCDS) that lets the broker's JVM start in half the time; written once per machine and Java."""

from __future__ import annotations

import hashlib
from pathlib import Path

from runtime.embedded.jars import kafka_dir
from runtime.embedded.tools import java


def archive_file() -> Path:
    """Where the archive for this machine's Java lies; another Java has another, and would refuse this one."""
    program = Path(java()).resolve()
    digest = hashlib.sha256(f"{program} {program.stat().st_mtime_ns}".encode()).hexdigest()[:12]
    return kafka_dir() / f"classes-{digest}.jsa"


def archive_options() -> list[str]:
    """JVM options that use the archive if it has been written.

    A JVM that cannot use it (`-Xshare:auto`) starts as it would without, only slower, and says nothing.
    """
    file = archive_file()
    return [f"-XX:SharedArchiveFile={file}", "-Xshare:auto", "-Xlog:cds=off"] if file.exists() else []

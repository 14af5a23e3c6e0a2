"""Looking at processes from outside."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil


def is_gone(pid: int) -> bool:
    """Whether the process has ended; one that nobody has reaped yet has."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def python(script: str, *arguments: object) -> subprocess.Popen[str]:
    """A Python process that runs `script`, to be killed by the test."""
    argv = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])


def first_line(process: subprocess.Popen[str]) -> str:
    """What the process prints first; its stdout is closed after that."""
    assert process.stdout is not None
    with process.stdout as stdout:
        return stdout.readline().strip()

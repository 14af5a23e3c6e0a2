"""The programs that the embedded broker needs on this machine: Java, and Maven while its jars are not cached."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from runtime.embedded.errors import ToolMissing

JAVA_MAJOR_MIN = 17  # Kafka 4 brokers do not start on less
_HOW_TO_JAVA = (
    "Install a JDK or JRE, e.g. `apt-get install openjdk-17-jre-headless` or `brew install openjdk@17`,"
    " and have `java` in PATH, or set JAVA_HOME."
)
_HOW_TO_MAVEN = "Install it, e.g. `apt-get install maven` or `brew install maven`, and have `mvn` in PATH."
_ANSWER_WAIT_S = 30  # a JVM on a loaded machine takes seconds; one that hangs must not hang us


def java() -> str:
    """The `java` program to run: of JAVA_HOME if that is set, as Maven does it, else the first in PATH.

    Raises ToolMissing.
    """
    home = os.environ.get("JAVA_HOME")
    found = shutil.which(str(Path(home) / "bin" / "java")) if home else shutil.which("java")
    if found is None:
        where = f"JAVA_HOME is {home}, which has no bin/java" if home else "there is no `java` in PATH"
        msg = f"The embedded Kafka needs Java {JAVA_MAJOR_MIN} or newer, but {where}. {_HOW_TO_JAVA}"
        raise ToolMissing(msg)
    return found


def check_java() -> int:
    """Major version of the Java that will run the broker. Raises ToolMissing when there is none or it is too old."""
    program = java()
    said = _answer([program, "-version"])
    major = _java_major(said)
    if major is None:
        msg = f"The embedded Kafka needs Java {JAVA_MAJOR_MIN} or newer; `{program} -version` fails: {said}. {_HOW_TO_JAVA}"
        raise ToolMissing(msg)
    if major < JAVA_MAJOR_MIN:
        msg = f"The embedded Kafka needs Java {JAVA_MAJOR_MIN} or newer, but {program} is Java {major}. {_HOW_TO_JAVA}"
        raise ToolMissing(msg)
    return major


def maven() -> str:
    """The `mvn` program. Raises ToolMissing when there is none or it does not run."""
    found = shutil.which("mvn")
    if found is None:
        msg = (
            f"Maven is needed once, to fetch the embedded Kafka's jars, but there is no `mvn` in PATH. {_HOW_TO_MAVEN}"
        )
        raise ToolMissing(msg)
    said = _answer([found, "--version"])
    if "Apache Maven" not in said:
        msg = f"Maven is needed once, to fetch the embedded Kafka's jars; `{found} --version` fails: {said}. {_HOW_TO_MAVEN}"
        raise ToolMissing(msg)
    return found


def _answer(argv: list[str]) -> str:
    """What the program prints on either stream; Java prints its version on stderr."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_ANSWER_WAIT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return (done.stderr + done.stdout).strip()


def _java_major(said: str) -> int | None:
    """17 of `openjdk version "17.0.15" …`, and 8 of `java version "1.8.0_402"`."""
    match = re.search(r'version "(?:1\.)?(\d+)', said)
    return int(match.group(1)) if match else None

"""The broker's jars: resolved once by Maven from `pom.xml` into a cache that all checkouts and processes share."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from runtime.embedded.errors import FetchFailed
from runtime.embedded.tools import check_java, maven

POM = Path(__file__).with_name("pom.xml")
_POM_NAMESPACE = {"m": "http://maven.apache.org/POM/4.0.0"}
_MAVEN_WAIT_S = 900  # 66 MB from an empty repository: 7 s on a fast line

Report = Callable[[str], None]


def silent(_message: str) -> None:
    """The Report of callers who want none."""


def kafka_version() -> str:
    """The version of Kafka that the pom names: the only place where it is written."""
    for dependency in ET.parse(POM).iterfind("m:dependencies/m:dependency", _POM_NAMESPACE):
        if dependency.findtext("m:artifactId", namespaces=_POM_NAMESPACE) == "kafka_2.13":
            version = dependency.findtext("m:version", namespaces=_POM_NAMESPACE)
            assert version, "kafka_2.13 has no version in the pom"
            return version
    raise AssertionError("the pom does not name kafka_2.13")


def cache_dir() -> Path:
    """Where jars and the class archive lie: METERLOG_CACHE, else `meterlog` in the user's cache directory."""
    chosen = os.environ.get("METERLOG_CACHE")
    if chosen:
        return Path(chosen).absolute()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base).absolute() / "meterlog"


def kafka_dir() -> Path:
    """The cache of this very pom: `kafka-<version>/<digest of the pom>`, so that an edited pom never finds old jars."""
    digest = hashlib.sha256(POM.read_bytes()).hexdigest()[:12]
    return cache_dir() / f"kafka-{kafka_version()}" / digest


def fetch_jars(report: Report = silent) -> Path:
    """The directory of the broker's jars, fetched first if need be.

    Safe when several processes do it at once: one fetches while the others wait for its lock, and the directory gets
    its name only when it is complete, so that a killed fetch leaves nothing that looks finished.
    Raises ToolMissing (Java, Maven) and FetchFailed.
    """
    libs = kafka_dir() / "libs"
    if libs.is_dir():
        return libs
    check_java()
    program = maven()
    with only_one(kafka_dir()):
        if not libs.is_dir():
            report(f"fetching Apache Kafka {kafka_version()} (about 45 MB) with Maven")
            _fetch_into(libs, program)
    return libs


def classpath(libs: Path) -> str:
    """All jars in a fixed order: the class archive is refused by a JVM that is given another."""
    return ":".join(str(jar) for jar in sorted(libs.glob("*.jar")))


def _fetch_into(libs: Path, program: str) -> None:
    remove_leftovers(libs.parent, "fetching-*")
    with tempfile.TemporaryDirectory(prefix="fetching-", dir=libs.parent) as scratch:
        fetched = Path(scratch) / "libs"
        _run_maven(program, fetched)
        fetched.rename(libs)


def _run_maven(program: str, target: Path) -> None:
    options = ["-B", "-q", "-f", str(POM), "-DincludeScope=runtime", f"-DoutputDirectory={target}"]
    try:
        done = subprocess.run(
            [program, *options, "dependency:copy-dependencies"],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_MAVEN_WAIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        msg = f"Maven did not fetch Kafka's jars within {_MAVEN_WAIT_S} s. Is the network slow? Run the command again."
        raise FetchFailed(msg) from error
    if done.returncode != 0 or not any(target.glob("kafka_2.13-*.jar")):
        raise FetchFailed(_failure(done))


def _failure(done: subprocess.CompletedProcess[str]) -> str:
    said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    return (
        f"Maven could not fetch Kafka's jars (exit {done.returncode}). If this machine reaches Maven repositories only"
        f" through a mirror or proxy, name it in ~/.m2/settings.xml. Maven said:\n" + "\n".join(said[:10])
    )


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, waiting for it; the kernel lets go of it when the holder dies."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def remove_leftovers(folder: Path, pattern: str) -> None:
    """Half-made directories of processes that were killed: whoever holds the folder's lock knows that none lives."""
    for leftover in folder.glob(pattern):
        shutil.rmtree(leftover, ignore_errors=True)

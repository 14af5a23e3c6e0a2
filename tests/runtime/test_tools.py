"""What is said when Java or Maven is missing or too old, with a PATH of made-up programs."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from runtime.embedded import jars
from runtime.embedded.errors import FetchFailed, ToolMissing
from runtime.embedded.jars import fetch_jars, kafka_dir, kafka_version
from runtime.embedded.tools import check_java, java, maven

JAVA_17 = "echo 'openjdk version \"17.0.15\" 2025-04-15' >&2"
MAVEN = 'if [ "$1" = --version ]; then echo "Apache Maven 3.8.7"; exit; fi\n'
# Stands for Maven: it makes its jar where the last -DoutputDirectory says, and notes that it ran.
MAVEN_FETCHES = (
    MAVEN
    + "for word; do case $word in -DoutputDirectory=*) target=${word#*=};; esac; done\n"
    + 'echo ran >> "$RUNS"\n/bin/sleep 0.3\n/bin/mkdir -p "$target"\necho jar > "$target/kafka_2.13-0.jar"\n'
)


class Machine:
    """A PATH and a cache of the test's own."""

    def __init__(self, root: Path) -> None:
        self.bin = root / "bin"
        self.cache = root / "cache"
        self.runs = root / "runs"
        self.bin.mkdir()

    def install(self, name: str, script: str) -> None:
        program = self.bin / name
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(tmp_path)
    monkeypatch.setenv("PATH", str(made.bin))
    monkeypatch.setenv("METERLOG_CACHE", str(made.cache))
    monkeypatch.setenv("RUNS", str(made.runs))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    return made


def test_no_java_is_said_with_what_to_do(machine: Machine) -> None:
    with pytest.raises(ToolMissing, match=r"needs Java 17 or newer, but there is no `java` in PATH\. Install a JDK"):
        check_java()


def test_a_java_home_without_java_is_said(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.install("java", JAVA_17)
    monkeypatch.setenv("JAVA_HOME", "/nowhere")
    with pytest.raises(ToolMissing, match="JAVA_HOME is /nowhere, which has no bin/java"):
        check_java()


@pytest.mark.parametrize(
    ("says", "major"),
    [('openjdk version "11.0.2" 2019-01-15', 11), ('java version "1.8.0_402"', 8), ('openjdk version "16" 2021', 16)],
)
def test_a_java_that_is_too_old_is_said_with_its_version(machine: Machine, says: str, major: int) -> None:
    machine.install("java", f"echo '{says}' >&2")
    with pytest.raises(ToolMissing, match=f"needs Java 17 or newer, but {machine.bin}/java is Java {major}\\."):
        check_java()


@pytest.mark.parametrize(
    ("says", "major"), [('openjdk version "17.0.15" 2025', 17), ('openjdk version "26-ea" 2026', 26)]
)
def test_a_java_that_is_new_enough_passes(machine: Machine, says: str, major: int) -> None:
    machine.install("java", f"echo '{says}' >&2")
    assert check_java() == major


def test_a_java_that_does_not_run_is_said_with_what_it_says(machine: Machine) -> None:
    machine.install("java", "echo 'No Java runtime present, requesting install.' >&2; exit 1")
    with pytest.raises(ToolMissing, match="No Java runtime present"):
        check_java()


def test_java_home_wins_over_the_path(machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.install("java", "exit 1")
    (tmp_path / "bin2" / "bin").mkdir(parents=True)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "bin2"))
    home = Machine.__new__(Machine)
    home.bin = tmp_path / "bin2" / "bin"
    home.install("java", JAVA_17)
    assert java() == str(home.bin / "java")
    assert check_java() == 17


def test_no_maven_is_said_with_what_to_do(machine: Machine) -> None:
    machine.install("java", JAVA_17)
    with pytest.raises(ToolMissing, match=r"no `mvn` in PATH\. Install it"):
        fetch_jars()


def test_a_maven_that_does_not_run_is_said(machine: Machine) -> None:
    machine.install("mvn", "echo 'The JAVA_HOME environment variable is not defined correctly' >&2; exit 1")
    with pytest.raises(ToolMissing, match="JAVA_HOME environment variable is not defined"):
        maven()


def test_a_fetch_that_fails_says_what_maven_said_and_leaves_nothing_that_looks_finished(machine: Machine) -> None:
    machine.install("java", JAVA_17)
    machine.install("mvn", MAVEN + "echo '[ERROR] Could not transfer artifact'; exit 1")
    with pytest.raises(FetchFailed, match=r"mirror or proxy(.|\n)*Could not transfer artifact"):
        fetch_jars()
    assert not (kafka_dir() / "libs").exists()
    machine.install("mvn", MAVEN_FETCHES)
    assert (fetch_jars() / "kafka_2.13-0.jar").exists()


def test_jars_that_are_there_need_neither_java_nor_maven(machine: Machine) -> None:
    machine.install("java", JAVA_17)
    machine.install("mvn", MAVEN_FETCHES)
    libs = fetch_jars()
    (machine.bin / "java").unlink()
    (machine.bin / "mvn").unlink()
    assert fetch_jars() == libs


def test_processes_that_fetch_at_once_share_one_fetch(machine: Machine) -> None:
    machine.install("java", JAVA_17)
    machine.install("mvn", MAVEN_FETCHES)
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        found = pool.starmap(fetch_jars, [()] * 3)
        pool.close()
        pool.join()
    assert len(set(found)) == 1
    assert machine.runs.read_text() == "ran\n"


def test_what_a_killed_fetch_left_is_removed(machine: Machine) -> None:
    machine.install("java", JAVA_17)
    machine.install("mvn", MAVEN_FETCHES)
    leftover = kafka_dir() / "fetching-killed" / "libs"
    leftover.mkdir(parents=True)
    fetch_jars()
    assert not leftover.exists()


def test_an_edited_pom_never_finds_the_old_jars(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = kafka_dir()
    edited = tmp_path / "pom.xml"
    edited.write_text(jars.POM.read_text().replace("2.25.4", "2.25.5"))
    monkeypatch.setattr(jars, "POM", edited)
    assert kafka_dir() != before
    assert kafka_dir().parent.name == f"kafka-{kafka_version()}"


def test_the_cache_follows_the_users_settings(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    assert jars.cache_dir() == machine.cache
    monkeypatch.delenv("METERLOG_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert jars.cache_dir() == Path("/xdg/meterlog")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert jars.cache_dir() == Path("/home/someone/.cache/meterlog")

"""Rows on disk: what one batch writes is there together, and only one process has it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import rocksdict

from streams.edges import Applied
from streams.errors import DirectoryInUse
from streams.lock import hold_directory
from streams.overlay import PartitionRows
from streams.tables import TableFiles

CACHE_BYTES = 1 << 20


@pytest.fixture
def files(tmp_path: Path) -> TableFiles:
    return TableFiles(tmp_path / "tables", CACHE_BYTES)


def test_rows_are_read_back_in_the_order_asked(files: TableFiles) -> None:
    table = files.get("accounts", 0)
    table.apply([(b"a", b"1"), (b"b", b"2"), (b"c", b"3")], Applied(7, 70))
    table.apply([(b"b", None), (b"c", b"33")], Applied(9, 90))
    assert table.get_many([b"c", b"b", b"a", b"a", b"none"]) == [b"33", None, b"1", b"1", None]
    assert table.get_many(()) == []
    assert table.applied == Applied(9, 90)


def test_a_scan_is_in_key_order_half_open_and_limited(files: TableFiles) -> None:
    table = files.get("accounts", 0)
    table.apply([(bytes([n]), b"%d" % n) for n in (5, 3, 1, 4, 2, 255)], Applied(6, 0))
    assert [key for key, _ in table.scan(b"\x02", b"\x05", 10)] == [b"\x02", b"\x03", b"\x04"]
    assert [key for key, _ in table.scan(b"\x02", b"\x05", 2)] == [b"\x02", b"\x03"]
    assert table.scan(b"\x06", b"\x09", 2) == []
    assert table.scan(b"\xfe", b"\xff\xff\xff", 9) == [(b"\xff", b"255")], "the engine's own row is nobody's"


def test_tables_and_partitions_are_apart(files: TableFiles) -> None:
    rows = PartitionRows({table: files.get(table, 1) for table in ("accounts", "seen")})
    rows.apply("accounts", {b"k": b"account"}, Applied(1, 0))
    assert rows.get_many("accounts", [b"k"]) == [b"account"]
    assert rows.get_many("seen", [b"k"]) == [None]
    assert files.get("accounts", 2).get_many([b"k"]) == [None]
    assert files.get("seen", 1).applied is None


def test_closed_files_open_again_elsewhere(files: TableFiles, tmp_path: Path) -> None:
    for number in (0, 1):
        files.get("accounts", number).apply([(b"k", b"%d" % number)], Applied(1, 0))
    files.close("accounts", keep=[1])
    other = TableFiles(tmp_path / "tables", CACHE_BYTES)
    assert other.get("accounts", 0).get_many([b"k"]) == [b"0"]
    with pytest.raises(Exception, match="lock"):
        other.get("accounts", 1)


def test_a_wiped_table_is_new(files: TableFiles) -> None:
    table = files.get("accounts", 0)
    table.apply([(b"k", b"v")], Applied(1, 0))
    table.wipe()
    assert table.get_many([b"k"]) == [None]
    assert table.applied is None


@pytest.mark.parametrize("victim", ["CURRENT", "MANIFEST-*", "*.log"])
def test_a_kill_within_a_wipe_leaves_a_table_that_opens(tmp_path: Path, victim: str) -> None:
    """Killed when the first of its files is gone."""
    script = (
        "import os, pathlib, shutil, signal; from streams.edges import Applied; from streams.tables import TableFiles\n"
        "def die(path, **_):\n"
        "    if path.exists():\n"
        f"        next(path.glob({victim!r})).unlink(); os.kill(os.getpid(), signal.SIGKILL)\n"
        "shutil.rmtree = die\n"
        f"t = TableFiles(pathlib.Path({str(tmp_path)!r}), {CACHE_BYTES}).get('accounts', 0)\n"
        "t.apply([(b'k', b'v')], Applied(1, 0))\n"
        "t.wipe()"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    table = TableFiles(tmp_path, CACHE_BYTES).get("accounts", 0)
    assert table.applied is None
    assert table.get_many([b"k"]) == [None]
    assert [path.name for path in tmp_path.iterdir()] == ["accounts-0"]


def test_a_killed_process_leaves_whole_batches(tmp_path: Path) -> None:
    """Written, and killed before anything was flushed or closed: the batch is there, its position with it."""
    script = (
        "import os, signal; from pathlib import Path; from streams.edges import Applied; from streams.tables import TableFiles\n"
        f"t = TableFiles(Path({str(tmp_path)!r}), {CACHE_BYTES}).get('accounts', 0)\n"
        "t.apply([(b'%d' % n, b'x' * 100) for n in range(1000)], Applied(1000, 5))\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    table = TableFiles(tmp_path, CACHE_BYTES).get("accounts", 0)
    assert table.applied == Applied(1000, 5)
    assert len(table.scan(b"0", b"z", 2_000)) == 1_000


def test_the_directory_belongs_to_one_worker(tmp_path: Path) -> None:
    with hold_directory(tmp_path):
        script = f"from streams.lock import hold_directory; from pathlib import Path; hold_directory(Path({str(tmp_path)!r}))"
        other = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
        assert "DirectoryInUse" in other.stderr
        with pytest.raises(DirectoryInUse, match="its own data directory"):
            hold_directory(tmp_path)
    hold_directory(tmp_path).close()


def test_raw_mode_is_what_was_written(files: TableFiles, tmp_path: Path) -> None:
    """Another reader of the directory, such as a support tool, sees plain bytes."""
    files.get("accounts", 0).apply([(b"k", b"v")], Applied(1, 0))
    files.close("accounts")
    path = str(tmp_path / "tables" / "accounts-0")
    database = rocksdict.Rdict(path, rocksdict.Options(raw_mode=True), access_type=rocksdict.AccessType.read_only())
    assert database.get(b"k") == b"v"
    database.close()

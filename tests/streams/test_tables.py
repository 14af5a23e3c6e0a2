"""Rows on disk: what one batch writes is there together, and only one process has it."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import rocksdict

from streams.edges import Applied
from streams.errors import DirectoryInUse, TableDamaged
from streams.lock import hold_directory
from streams.overlay import PartitionRows
from streams.tables import PartitionTable, TableFiles

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


# Files that are not whole

ROW_COUNT = 2_000


def leave_files(folder: Path) -> None:
    """A killed worker's table: two flushed files, and rows in the write-ahead log."""
    script = (
        "import os, pathlib, random, signal\n"
        "from streams.edges import Applied\n"
        "from streams.tables import PartitionTable, TableFiles\n"
        f"t = TableFiles(pathlib.Path({str(folder)!r}), {CACHE_BYTES}).get('accounts', 0)\n"
        "for turn in range(4):\n"
        f"    rows = [(b'%d-%06d' % (turn, n), random.Random(n).randbytes(100)) for n in range({ROW_COUNT // 4})]\n"
        "    t.apply(rows, Applied(turn + 1, 5))\n"
        "    if turn < 2: t._db.flush()\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9


def state_of(table: PartitionTable) -> tuple[int, int]:
    """How far the table says that it reaches, and the rows that it has."""
    return (table.applied.next_offset if table.applied else 0), len(table.scan(b"0", b"9", ROW_COUNT + 1))


PREFIXES = {(turn, turn * ROW_COUNT // 4) for turn in range(5)}


@pytest.fixture(scope="module")
def left_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("left")
    leave_files(folder)
    return folder


@pytest.mark.parametrize("victim", ["CURRENT", "MANIFEST-*", "*.sst", "*.log", "OPTIONS-*"])
@pytest.mark.parametrize("harm", ["cut", "missing", "garbage", "one bit"])
def test_broken_files_are_never_taken_for_whole_ones(left_files: Path, tmp_path: Path, victim: str, harm: str) -> None:
    """Whatever opens says truly how far it reaches; a block that shows its harm when it is read ends the worker."""
    for tenths in range(10) if harm in ("cut", "one bit") else (0,):
        folder = tmp_path / f"{tenths}"
        shutil.copytree(left_files, folder)
        file = min((folder / "accounts-0").glob(victim))
        data = bytearray(file.read_bytes())
        match harm:
            case "cut":
                os.truncate(file, len(data) * tenths // 10)
            case "missing":
                file.unlink()
            case "garbage":
                file.write_bytes(random.Random(1).randbytes(len(data)))
            case "one bit":
                data[len(data) * tenths // 10] ^= 1
                file.write_bytes(data)
        table = TableFiles(folder, CACHE_BYTES).get("accounts", 0)
        with suppress(TableDamaged):
            assert state_of(table) in PREFIXES
            continue
        table.close()
        assert state_of(TableFiles(folder, CACHE_BYTES).get("accounts", 0)) == (0, 0), "set aside by the next start"


def test_without_a_look_at_its_files_a_cut_manifest_would_lose_rows(
    left_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted: the table says that it is complete, and is not."""
    monkeypatch.setattr(Path, "glob", lambda *_: iter(()))
    found = set()
    for tenths in range(10):
        folder = tmp_path / f"{tenths}"
        shutil.copytree(left_files, folder)
        (file,) = (path for path in (folder / "accounts-0").iterdir() if path.name.startswith("MANIFEST"))
        os.truncate(file, file.stat().st_size * tenths // 10)
        found.add(state_of(TableFiles(folder, CACHE_BYTES).get("accounts", 0)))
    assert not found <= PREFIXES


def test_one_broken_directory_a_table_is_kept_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for turn in range(2):
        table = TableFiles(tmp_path, CACHE_BYTES).get("accounts", 0)
        table.apply([(b"k", b"v")], Applied(1, 0))
        table.close()
        (tmp_path / "accounts-0" / "CURRENT").write_text(f"turn {turn}")
    with caplog.at_level("WARNING"):
        assert TableFiles(tmp_path, CACHE_BYTES).get("accounts", 0).applied is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["accounts-0", "accounts-0.damaged"]
    assert (tmp_path / "accounts-0.damaged" / "CURRENT").read_text() == "turn 1"
    assert "tables.set_aside" in caplog.text


def test_a_locked_directory_is_not_set_aside(files: TableFiles, tmp_path: Path) -> None:
    files.get("accounts", 0).apply([(b"k", b"v")], Applied(1, 0))
    with pytest.raises(Exception, match="lock"):
        TableFiles(tmp_path / "tables", CACHE_BYTES).get("accounts", 0)
    assert [path.name for path in (tmp_path / "tables").iterdir()] == ["accounts-0"]


_FILL = """
import os, pathlib, sys
from streams.edges import Applied
from streams.errors import NoRoom
from streams.tables import PartitionTable, TableFiles
folder, room = pathlib.Path(sys.argv[1]), sys.argv[2]
def fill(offset, count):
    table = TableFiles(folder, 1 << 20).get("accounts", 0)
    for n in range(offset, offset + count):
        table.apply([(b"%06d-%06d" % (n, i), os.urandom(1000)) for i in range(1000)], Applied(n + 1, 0))
    rows = len(table.scan(b"0", b"9", 10_000_000))
    assert rows == table.applied.next_offset * 1000, (rows, table.applied)
    return table
try:
    fill(0, 40)
except NoRoom as error:
    assert "of 12 MiB are free" in str(error), error
else:
    raise AssertionError("40 MB fit into 12")
if room == "none":
    try:
        fill(0, 40)
    except NoRoom:
        sys.exit(7)
assert os.system(f"mount -o remount,size=200m {folder}") == 0
table = TableFiles(folder, 1 << 20).get("accounts", 0)
fill_from = table.applied.next_offset if table.applied else 0
table.close()
del table
fill(fill_from, 20)
sys.exit(8)
"""


@pytest.mark.parametrize(("room", "code"), [("none", 7), ("made", 8)])
def test_a_full_disk_is_said_and_goes_on_when_there_is_room(tmp_path: Path, room: str, code: int) -> None:
    """On a file system of 12 MB, in a process that may mount one for itself."""
    command = f"mount -t tmpfs -o size=12m tmpfs {tmp_path} && {sys.executable} -c '{_FILL}' {tmp_path} {room}"
    if subprocess.run(["unshare", "-rm", "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("no file system of one's own may be mounted here")
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", command], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == code, done.stderr


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

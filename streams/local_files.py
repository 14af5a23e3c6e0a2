"""RocksDB's files: how they are opened, and how it shows that they are not whole."""

from __future__ import annotations

from pathlib import Path

import rocksdict

__all__ = ["is_damage", "open_whole"]

_WRITE_BUFFER_BYTES = 8 << 20  # two a database; 12 partitions with two tables stay below 400 MB in the worst case
_TARGET_FILE_BYTES = 32 << 20
_OPEN_FILES_MAX = 128
_BLOOM_BITS_PER_KEY = 10  # 1 % false positives: an id never seen before costs 1.4 µs instead of a disk read
_DAMAGE = (
    "Corruption",
    "Invalid argument",
    "NotFound",
    "IO error: No such file or directory",
    "IO error: Not a directory",
)
"""How RocksDB's messages begin where files are missing or are not what they were. A lock, rights or room are not among them:
those are mended without loading anything anew."""


def open_whole(path: Path, cache: rocksdict.Cache) -> rocksdict.Rdict:
    """Open or make a database. Raises what `is_damage` knows when files of it are missing, cut or changed.

    RocksDB itself opens one whose MANIFEST was cut: it knows nothing of the newest files then, deletes them, and puts the
    write-ahead log over the rest, so that the newest position stands above rows that are gone. A table file that was there
    and that the open database does not know says so. A kill in the middle of a compaction leaves such files, too; then a
    table is loaded anew that need not have been.
    """
    before = {file.name for file in path.glob("*.sst")}
    options = _options(cache)
    options.set_disable_auto_compactions(True)  # none may drop a file between the opening and the look
    database = rocksdict.Rdict(str(path), options=options)
    unknown = before - {Path(file["name"]).name for file in database.live_files()}
    if unknown:
        database.close()
        message = f"Corruption: {', '.join(sorted(unknown))} is not in the database's list of its files"
        raise OSError(message)
    database.set_options({"disable_auto_compactions": "false"})
    return database


def is_damage(error: Exception) -> bool:
    """Whether the files are to blame; else what surrounds them is."""
    return str(error).startswith(_DAMAGE)


def _options(cache: rocksdict.Cache) -> rocksdict.Options:
    blocks = rocksdict.BlockBasedOptions()
    blocks.set_bloom_filter(_BLOOM_BITS_PER_KEY, False)
    blocks.set_block_cache(cache)
    options = rocksdict.Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_write_buffer_size(_WRITE_BUFFER_BYTES)
    options.set_max_write_buffer_number(2)
    options.set_target_file_size_base(_TARGET_FILE_BYTES)
    options.set_max_open_files(_OPEN_FILES_MAX)
    options.set_max_background_jobs(2)
    options.set_keep_log_file_num(2)
    options.set_block_based_table_factory(blocks)
    return options

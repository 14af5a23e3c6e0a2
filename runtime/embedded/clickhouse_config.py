"""What the embedded ClickHouse's engine is told: limits that leave the machine usable, durable inserts, access rights.

chdb reads the same configuration files as a ClickHouse server, and honours what is set here (checked by tests on chdb
4.4): server limits, MergeTree settings, profile settings with their constraints, and the grants of its one user.
"""

from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import escape

MIB = 1024 * 1024
MEMORY_MAX = 1200 * MIB  # of the whole engine; it would take 90 % of the machine's
QUERY_MEMORY_MAX = 800 * MIB  # one query must leave room for an insert beside it
_SPILL_AT = 256 * MIB  # from here on, GROUP BY and ORDER BY go on on disk

_SERVER: dict[str, object] = {
    "timezone": "UTC",
    "max_server_memory_usage": MEMORY_MAX,
    "mark_cache_size": 64 * MIB,
    "primary_index_cache_size": 64 * MIB,
    "query_condition_cache_size": 16 * MIB,
    "compiled_expression_cache_size": 16 * MIB,
    "background_pool_size": 2,
    "background_schedule_pool_size": 2,
    "max_thread_pool_size": 500,
    "max_concurrent_queries": 50,
}

# An acknowledged insert is on the disk: 10 file and 3 directory syncs for a table's insert. Both are off by default.
_MERGE_TREE: dict[str, object] = {"fsync_after_insert": 1, "fsync_part_directory": 1}

_PROFILE: dict[str, object] = {
    "max_threads": 2,
    "max_insert_threads": 1,
    "max_memory_usage": QUERY_MEMORY_MAX,
    "max_bytes_before_external_group_by": _SPILL_AT,
    "max_bytes_before_external_sort": _SPILL_AT,
    "max_query_size": 64 * MIB,  # VALUES count here, which a server reads apart
    "max_result_bytes": 512 * MIB,  # results are built in memory before they are sent
    # On by default in this engine: an insert would be acknowledged from a queue, or wait for its flush.
    "async_insert": 0,
}
_MAXIMA = {"max_threads": 8, "max_memory_usage": QUERY_MEMORY_MAX, "max_result_bytes": 512 * MIB}

# Settings that nobody may change, since their values name files, addresses or accounts, are SQL by another door, or
# change how statements are read, behind the guard's back.
SETTINGS_LOCKED = (
    "dialect",
    "polyglot_dialect",
    "enable_json_ast_dialect",
    "enable_trino_dialect",
    "allow_experimental_kusto_dialect",
    "allow_experimental_prql_dialect",
    "allow_experimental_polyglot_dialect",
    "allow_experimental_eval_table_function",
    "additional_result_filter",
    "additional_table_filters",
    "parallel_replicas_custom_key",
    "filter",
    "order",
    "sort",
    "select",
    "implicit_table_at_top_level",
    "format_schema",
    "format_schema_source",
    "output_format_schema",
    "format_template_row",
    "format_template_row_format",
    "format_template_resultset",
    "format_template_resultset_format",
    "input_format_record_errors_file_path",
    "format_avro_schema_registry_url",
    "rename_files_after_processing",
    "url_base",
    "ai_function_text_default_credentials",
    "ai_function_embedding_default_credentials",
)

# No sources (FILE, URL, REMOTE, S3, ...), no users, dictionaries, functions, backups or named collections.
_GRANTS = (
    "GRANT SHOW, SELECT, INSERT, ALTER TABLE, ALTER VIEW, CREATE DATABASE, CREATE TABLE, CREATE VIEW, DROP DATABASE,"
    " DROP TABLE, DROP VIEW, TRUNCATE, OPTIMIZE, SYSTEM FLUSH, SYSTEM MERGES ON *.*"
)


def write(folder: Path, config_name: str, users_name: str) -> None:
    """Write both files into `folder`, which must be the engine's working directory: the one names the other."""
    (folder / users_name).write_text(_document(_users()))
    (folder / config_name).write_text(_document(_config(users_name)))


def _config(users_name: str) -> str:
    return _elements(_SERVER | {"users_config": users_name}) + _wrap("merge_tree", _elements(_MERGE_TREE))


def _users() -> str:
    maxima = "".join(_wrap(name, _elements({"max": value})) for name, value in _MAXIMA.items())
    locks = "".join(_wrap(name, "<readonly/>") for name in SETTINGS_LOCKED)
    profile = _elements(_PROFILE) + _wrap("constraints", maxima + locks)
    user = _elements({"password": "", "profile": "default", "quota": "default"})
    user += "<networks><ip>::/0</ip></networks>" + _wrap("grants", _elements({"query": _GRANTS}))
    return (
        _wrap("profiles", _wrap("default", profile))
        + _wrap("quotas", "<default/>")
        + _wrap("users", _wrap("default", user))
    )


def _document(inner: str) -> str:
    return _wrap("clickhouse", inner)


def _elements(values: dict[str, object]) -> str:
    return "".join(_wrap(name, escape(str(value))) for name, value in values.items())


def _wrap(name: str, inner: str) -> str:
    return f"<{name}>{inner}</{name}>\n"

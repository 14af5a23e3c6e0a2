"""Settings come from the environment or from a stack's directory; what is wrong is named with its variable."""

from pathlib import Path

import pytest

from runtime.errors import SettingsError
from runtime.settings import STACK_FILE, load_settings, write_stack_file


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("METERLOG_BOOTSTRAP_SERVERS", raising=False)


def test_a_missing_setting_is_named_with_what_to_do() -> None:
    with pytest.raises(SettingsError, match=r"METERLOG_BOOTSTRAP_SERVERS is not set .*--data-dir"):
        load_settings(None)


def test_a_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METERLOG_BOOTSTRAP_SERVERS", "here:9092")
    monkeypatch.setenv("METERLOG_PARTITIONS", "many")
    with pytest.raises(SettingsError, match="METERLOG_PARTITIONS: Input should be a valid integer"):
        load_settings(None)


def test_a_stack_that_was_named_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("METERLOG_BOOTSTRAP_SERVERS", "elsewhere:9092")
    write_stack_file(tmp_path, {"METERLOG_BOOTSTRAP_SERVERS": "stack:9092", "METERLOG_CLICKHOUSE_PASSWORD": "secret"})
    settings = load_settings(tmp_path)
    assert settings.bootstrap_servers == "stack:9092"
    assert "secret" not in repr(settings)
    assert (tmp_path / STACK_FILE).stat().st_mode & 0o777 == 0o600


def test_a_directory_without_a_stack_says_how_to_start_one(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="start one with: meterlog up --data-dir"):
        load_settings(tmp_path / "nothing")


def test_the_environment_wins_over_a_stack_that_nobody_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".meterlog").mkdir()
    write_stack_file(tmp_path / ".meterlog", {"METERLOG_BOOTSTRAP_SERVERS": "stack:9092"})
    assert load_settings(None).bootstrap_servers == "stack:9092"
    monkeypatch.setenv("METERLOG_BOOTSTRAP_SERVERS", "here:9092")
    assert load_settings(None).bootstrap_servers == "here:9092"

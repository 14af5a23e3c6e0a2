"""The production files, checked as far as they can be without a container engine."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from runtime.cli import app
from runtime.settings import Settings

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return loaded


def test_each_process_is_a_command_of_meterlog(compose: dict[str, Any]) -> None:
    ours = {name: service for name, service in compose["services"].items() if service["image"] == "meterlog-server"}
    assert set(ours) == {"topics", "worker", "forwarder", "api", "sink-clickhouse", "sink-stripe"}
    for service in ours.values():
        command: Any = get_command(app)
        for word in service["command"]:
            if word.startswith("-"):
                assert word in {option for parameter in command.params for option in parameter.opts}
                break
            command = command.commands[word]


def test_each_variable_is_a_setting(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        for name in service.get("environment", {}):
            if name.startswith("METERLOG_"):
                assert name.removeprefix("METERLOG_").lower() in Settings.model_fields


def test_each_volume_and_each_dependency_exists(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        assert {volume.partition(":")[0] for volume in service.get("volumes", [])} <= set(compose["volumes"])
        assert set(service.get("depends_on", {})) <= set(compose["services"])


def test_each_process_is_asked_whether_it_lives_where_it_says_so(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        if service["image"] == "meterlog-server" and name != "topics":
            port = service["environment"]["METERLOG_METRICS_PORT"]
            assert f"http://127.0.0.1:{port}/livez" in service["healthcheck"]["test"][-1]
            assert not any(str(port) in published for published in service.get("ports", [])), "no key guards it"


def test_no_password_stands_in_the_file(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        for name, value in service.get("environment", {}).items():
            if re.search("PASSWORD|KEY$|SECRET", name):
                assert value.startswith("${"), f"{name} must come from outside"


def test_the_image_holds_every_room_and_nothing_that_is_not_there() -> None:
    copied = re.findall(r"^COPY (.+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    files = [name for line in copied for name in line.split()]
    assert all((ROOT / name).exists() for name in files)
    rooms = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests", "bench"}
    assert rooms <= set(files)


def test_compose_itself_accepts_the_file() -> None:
    docker = shutil.which("docker")
    if docker is None:
        pytest.skip("docker is not installed here: the file is only checked as text")
    asked = [docker, "compose", "--file", str(ROOT / "docker-compose.yml"), "config", "--quiet"]
    environment = {"METERLOG_CLICKHOUSE_PASSWORD": "x", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(asked, capture_output=True, text=True, env=environment, check=False)
    if "is not a docker command" in done.stderr or "unknown flag" in done.stderr:
        pytest.skip("docker is here without its compose plugin: the file is only checked as text")
    assert done.returncode == 0, done.stderr

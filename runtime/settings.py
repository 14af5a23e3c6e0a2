"""Settings: read once, here, from METERLOG_… variables or from a stack's data directory."""

import json
import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from runtime.errors import SettingsError

__all__ = [
    "DEFAULT_DATA_DIR",
    "STACK_FILE",
    "LogFormat",
    "LogSettings",
    "Settings",
    "load_settings",
    "write_stack_file",
]

DEFAULT_DATA_DIR = Path(".meterlog")
STACK_FILE = "stack.json"
"""In a stack's data directory: the METERLOG_… variables of its processes, tokens included (mode 0600)."""


class LogFormat(StrEnum):
    """How a process writes its log."""

    AUTO = "auto"
    JSON = "json"
    TEXT = "text"


class LogSettings(BaseSettings):
    """What every process is told about its log, a stack's own among them."""

    model_config = SettingsConfigDict(env_prefix="METERLOG_", frozen=True, extra="ignore", env_ignore_empty=True)

    log_format: LogFormat = LogFormat.AUTO
    """`json`: an object a line; `text`: for a person; `auto`: text where stderr is a terminal."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"


class Settings(LogSettings):
    """Everything that a process of meterlog is told from outside. Frozen; secrets do not show in its repr."""

    bootstrap_servers: str
    """Kafka's addresses, host:port, separated by commas."""
    data_dir: Path = DEFAULT_DATA_DIR
    """Where this process keeps local state. The worker's tables lie here; they can be built anew from the log."""
    partitions: Annotated[int, Field(ge=1, le=1_000)] = 12
    """Partitions of each topic; fixed for a deployment's life."""
    replication: Annotated[int, Field(ge=1, le=9)] = 3
    clickhouse_url: str = "http://127.0.0.1:8123"
    clickhouse_user: str = "default"
    clickhouse_password: SecretStr = SecretStr("")
    stripe_api_key: SecretStr | None = None
    """None: the Stripe sink runs dry against the double at `stripe_url`, and says so."""
    stripe_url: str | None = None
    """Another server than Stripe's: the double."""
    stripe_send_interval_s: Annotated[float, Field(gt=0)] = 60.0
    """How often an hour that still changes is sent; a cost in requests, never in exactness."""
    api_host: str = "127.0.0.1"
    api_port: Annotated[int, Field(ge=0, le=65_535)] = 8080
    operator_key_file: Path | None = None
    """Ed25519 private key of the operator, PEM. None: `operator.key` in the data directory."""
    worker_session_timeout_s: Annotated[float, Field(ge=1, le=300)] = 6.0
    """How long a silent worker keeps its partitions."""

    worker_standby_replicas: Annotated[int, Field(ge=0, le=4)] = 1
    """How many other workers keep a copy of each partition's tables, to take it over at once. 0: loaded when needed."""
    worker_instance_id: str | None = None
    """Unique name of a worker: restarted under it, it takes its partitions back at once instead of after the timeout."""

    forwarder_window: Annotated[int, Field(ge=1, le=1_000_000)] = 1_000
    """Records of a backfill that may wait for the fold on each partition: a live event has no more than these before it."""
    forwarder_rate_max: Annotated[float, Field(gt=0)] | None = None
    """Records a second that a forwarder appends at most; None: as many as the fold takes."""
    metrics_host: str = "127.0.0.1"
    """Where this process's /metrics, /health and /livez listen. They need no key: keep them off public networks."""
    metrics_port: Annotated[int, Field(ge=0, le=65_535)] | None = None
    """None: they are not served. 0 picks a free port, which the log names. Of a port each, for processes on one machine."""
    health_stall_s_max: Annotated[float, Field(gt=0)] = 30.0
    """Past it /livez fails: the longest that a main loop is held up in health is a second or two of folding."""
    health_fold_age_s_max: Annotated[float, Field(gt=0)] = 15.0
    """An acknowledged event that waits for longer to be counted makes health red. A worker that is killed is replaced within
    its session timeout, and takes its partitions over in seconds."""
    health_fold_lag_max: Annotated[int, Field(ge=1)] = 1_000_000
    """Offsets behind which health is red: a minute of what one core folds is 3,000,000."""
    health_sink_age_s_max: Annotated[float, Field(gt=0)] = 60.0
    """An event that waits for longer to reach ClickHouse or Stripe makes the sink's own health red, and the API's yellow."""
    health_take_over_s_max: Annotated[float, Field(gt=0)] = 120.0
    """A take-over that lasts longer makes a worker's health red."""

    @property
    def tells_stripe(self) -> bool:
        """Whether this deployment has a Stripe sink: a live one or a dry one."""
        return self.stripe_api_key is not None or self.stripe_url is not None

    @property
    def operator_key_path(self) -> Path:
        return self.operator_key_file or self.data_dir / "operator.key"


def load_settings(data_dir: Path | None) -> Settings:
    """The settings of a stack (`data_dir`), or of the environment. Raises SettingsError, naming what is missing."""
    directory = data_dir if data_dir is not None else _default_stack()
    stack = _stack_variables(directory) if directory is not None else {}
    # A stack that was named wins over the environment: the person said which one they mean.
    values: dict[str, Any] = {name.removeprefix("METERLOG_").lower(): value for name, value in stack.items()}
    try:
        return Settings(**values)
    except ValidationError as exc:
        raise SettingsError(_explain(exc)) from exc


def write_stack_file(data_dir: Path, variables: dict[str, str]) -> None:
    """Leave a running stack's addresses and tokens for the commands that ask for them."""
    path = data_dir / STACK_FILE
    partial = path.with_suffix(".partial")
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(variables, file, indent=2)
    partial.replace(path)


def _default_stack() -> Path | None:
    """The stack that `meterlog up` makes when it is told nothing, where the environment names none."""
    if "METERLOG_BOOTSTRAP_SERVERS" in os.environ:
        return None
    return DEFAULT_DATA_DIR if (DEFAULT_DATA_DIR / STACK_FILE).exists() else None


def _stack_variables(data_dir: Path) -> dict[str, str]:
    path = data_dir / STACK_FILE
    try:
        variables: dict[str, str] = json.loads(path.read_text())
    except FileNotFoundError as exc:
        message = (
            f"{data_dir} holds no stack ({STACK_FILE} is missing); start one with: meterlog up --data-dir {data_dir}"
        )
        raise SettingsError(message) from exc
    return variables


def _explain(exc: ValidationError) -> str:
    lines = []
    for error in exc.errors(include_url=False):
        name = f"METERLOG_{'_'.join(str(part) for part in error['loc']).upper()}"
        missing = error["type"] == "missing"
        lines.append(f"{name} is not set" if missing else f"{name}: {error['msg']}")
    return "; ".join(lines) + " (set it, or name a running stack with --data-dir)"

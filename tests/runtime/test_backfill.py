"""`meterlog backfill status`: what two looks at the lane tell."""

from __future__ import annotations

import json

import pytest

from runtime.backfill import Look, Looked, Status, print_status, status_between, status_of
from runtime.embedded.kafka import EmbeddedKafka
from runtime.errors import BrokerError, CommandError


def looked(at_s: float, *lanes: tuple[int, int, int]) -> Looked:
    return Looked(at_s, tuple(Look(number, *lane) for number, lane in enumerate(lanes)))


def test_what_waits_and_what_went_are_added_up_over_partitions() -> None:
    status = status_between(looked(10, (0, 100, 500), (20, 40, 40)), looked(12, (0, 300, 500), (20, 40, 60)))
    assert status == Status(
        waiting=220,
        forwarded=320,
        rate_per_s=100.0,
        remaining_s=2.2,
        partitions=(
            {"partition": 0, "waiting": 200, "forwarded": 300},
            {"partition": 1, "waiting": 20, "forwarded": 20},
        ),
    )


@pytest.mark.parametrize(
    ("first", "last", "remaining_s", "says"),
    [
        pytest.param((0, 9, 9), (0, 9, 9), 0.0, "nothing waits; 9 forwarded", id="done"),
        pytest.param((0, 0, 9), (0, 0, 9), None, "is a forwarder running", id="nothing moves"),
        pytest.param((0, 0, 7_200), (0, 2, 7_202), 7_200.0, "done in 2:00:00", id="it goes on"),
        pytest.param((0, 5, 9), (0, 0, 9), None, "nothing moves", id="somebody reset the group"),
    ],
)
def test_the_end_is_told_while_it_moves(
    capsys: pytest.CaptureFixture[str],
    first: tuple[int, int, int],
    last: tuple[int, int, int],
    remaining_s: float | None,
    says: str,
) -> None:
    status = status_between(looked(1, first), looked(3, last))
    assert status.remaining_s == remaining_s
    print_status(status, as_json=False)
    assert says in capsys.readouterr().out
    print_status(status, as_json=True)
    assert json.loads(capsys.readouterr().out)["waiting"] == status.waiting


def test_a_deployment_without_the_lane_is_told_the_command(kafka: EmbeddedKafka) -> None:
    with pytest.raises(CommandError, match="meterlog topics create"):
        status_of(kafka.bootstrap_servers)


def test_a_kafka_that_is_away_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.backfill._TIMEOUT_S", 1.0)
    with pytest.raises(BrokerError, match=r"127\.0\.0\.1:9"):
        status_of("127.0.0.1:9")

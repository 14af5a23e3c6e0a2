"""Ports that stay the same while they can."""

from __future__ import annotations

import socket
from pathlib import Path

from runtime.embedded import ports


def listen(port: int) -> socket.socket:
    taker = socket.socket()
    taker.bind((ports.LOOPBACK, port))
    taker.listen()
    return taker


def test_ports_are_remembered(tmp_path: Path) -> None:
    file = tmp_path / "ports.json"
    assert ports.remembered(file, 3) == ports.remembered(file, 3) == ports.known(file)


def test_a_port_that_is_taken_is_replaced_in_its_place(tmp_path: Path) -> None:
    file = tmp_path / "ports.json"
    first, second, third = ports.remembered(file, 3)
    with listen(second):
        now = ports.remembered(file, 3)
    assert (now[0], now[2]) == (first, third)
    assert now[1] not in (first, second, third)


def test_a_fixed_port_takes_the_first_place(tmp_path: Path) -> None:
    file = tmp_path / "ports.json"
    _, second = ports.remembered(file, 2)
    [fixed] = ports.pick(1)
    assert ports.remembered(file, 2, fixed) == [fixed, second]


def test_a_file_that_makes_no_sense_is_as_good_as_none(tmp_path: Path) -> None:
    file = tmp_path / "ports.json"
    for content in ("", "{}", '["x", 70000, null]', "[1"):
        file.write_text(content)
        assert all(port >= 20_000 for port in ports.remembered(file, 2))


def test_a_listener_takes_its_port_and_gives_it_back(tmp_path: Path) -> None:
    [port] = ports.pick(1)
    with listen(port):
        assert not ports.is_free(port)
        assert ports.accepts(port)
    assert ports.is_free(port)
    assert not ports.accepts(port)

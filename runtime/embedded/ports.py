"""Ports on loopback that stay the same over restarts, where they can."""

from __future__ import annotations

import errno
import json
import random
import socket
from pathlib import Path

LOOPBACK = "127.0.0.1"
# Below the range from which the kernel gives outgoing connections their ports (Linux 32768 up, macOS 49152 up): while a
# broker is down, a client that keeps dialling a port of that range can connect to itself and so take it.
_PORTS = range(20_000, 32_000)
_TRIES = 500


def is_free(port: int) -> bool:
    """Whether a server could listen on the port of loopback now. Connections in TIME_WAIT do not count."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise
        return True


def accepts(port: int, timeout_s: float = 0.2) -> bool:
    """Whether something on loopback accepts connections at the port."""
    with socket.socket() as probe:
        probe.settimeout(timeout_s)
        return probe.connect_ex((LOOPBACK, port)) == 0


def pick(count: int, taken: frozenset[int] = frozenset()) -> list[int]:
    """`count` different free ports, none of `taken`. Nothing holds them until their server listens.

    They are random, so that two stacks that start at once rarely choose the same. Raises OSError when none is free.
    """
    chosen: list[int] = []
    for _ in range(_TRIES):
        if len(chosen) == count:
            break
        port = random.SystemRandom().choice(_PORTS)
        if port not in taken and port not in chosen and is_free(port):
            chosen.append(port)
    if len(chosen) < count:
        msg = f"no {count} free ports between {_PORTS.start} and {_PORTS.stop}"
        raise OSError(errno.EADDRNOTAVAIL, msg)
    return chosen


def remembered(file: Path, count: int, fixed: int | None = None) -> list[int]:
    """`count` ports, at each place the one that `file` names there, or another when that is no longer free.

    `fixed` takes the first place. The file then names what was returned, so that clients that know the address of a
    data directory's server find it there again.
    """
    known = (_read(file) + [None] * count)[:count]
    ports = [port if port is not None and is_free(port) else None for port in known]
    if fixed is not None:
        ports[0] = fixed
    spare = pick(ports.count(None), frozenset(port for port in ports if port is not None))
    chosen = [spare.pop() if port is None else port for port in ports]
    _write(file, chosen)
    return chosen


def known(file: Path) -> list[int]:
    """The ports that `file` names, free or not. Raises FileNotFoundError."""
    if not file.exists():
        raise FileNotFoundError(file)
    return [port for port in _read(file) if port is not None]


def _write(file: Path, ports: list[int]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_suffix(".new")
    draft.write_text(json.dumps(ports))
    draft.replace(file)


def _read(file: Path) -> list[int | None]:
    try:
        found = json.loads(file.read_text())
    except (FileNotFoundError, ValueError):
        return []
    if not isinstance(found, list):
        return []
    return [port if isinstance(port, int) and 0 < port < 65536 else None for port in found]

"""Workers of a simulation die by the thousand, and each says so."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    log = logging.getLogger("meterlog.streams")
    log.disabled = True
    yield
    log.disabled = False

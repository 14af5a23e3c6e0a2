"""POST /v1/events against a real broker: what is acknowledged is on the log, each format means the same."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import httpx

from billing.records import UsageEvent
from tests.api.process import on_topic


def now() -> str:
    return datetime.now(UTC).isoformat()


def native(event_id: str = "e1", **fields: Any) -> dict[str, Any]:
    return {"event_id": event_id, "occurred_at": now(), "customer_id": "c1", "meter": "calls", **fields}


def test_an_acknowledged_event_is_on_the_topic(client: httpx.Client, broker: str, org: str) -> None:
    answer = client.post("/v1/events", json={"events": [native(quantity="1.5", tags=["a"], properties={"k": "v"})]})
    assert (answer.status_code, answer.json()) == (202, {"accepted": 1, "rejected": []})
    [(_, event)] = on_topic(broker, org)
    assert isinstance(event, UsageEvent)
    assert (event.event_id, event.quantity, event.tags, event.properties) == ("e1", "1.5", ("a",), {"k": "v"})

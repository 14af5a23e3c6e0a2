"""Usage events as producers write them, for the tests of this room."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import fastavro

from schemas.codec import schema_files

CLOUD_TYPE = "application/cloudevents+json"
CLOUD_BATCH_TYPE = "application/cloudevents-batch+json"
AVRO_TYPE = "application/vnd.meterlog.events+avro"


def ago(**span: float) -> str:
    """That long before now, as RFC 3339."""
    return (datetime.now(UTC) - timedelta(**span)).isoformat()


def native(event_id: str = "e1", **fields: Any) -> dict[str, Any]:
    return {"event_id": event_id, "occurred_at": ago(), "customer_id": "c1", "meter": "calls", **fields}


def cloud(event_id: str = "1", **fields: Any) -> dict[str, Any]:
    attributes = {"id": event_id, "source": "/s", "type": "llm.call", "time": ago(), "subject": "c1"}
    return {"specversion": "1.0", **attributes, **fields}


def container(records: list[Any], packing: str = "null", schema: Any = None) -> bytes:
    """An Avro object container file of usage events, or of another schema's records."""
    own = json.loads(list(schema_files()["usage_event"].values())[-1])
    file = io.BytesIO()
    fastavro.writer(file, fastavro.parse_schema(schema or own), records, packing)
    return file.getvalue()


def avro_fields(event_id: str = "e1", **fields: Any) -> dict[str, Any]:
    at_us = int(datetime.now(UTC).timestamp() * 1_000_000)
    return {"event_id": event_id, "occurred_at_us": at_us, "customer_id": "c1", "meter": "calls", **fields}

"""The same job as Faust's documentation would have it: `python -m bench.stock_faust`.

One event at a time: dedupe by id in one table, a total per customer in another, one output per event. Everything is
stock: `faust.Table` on rocksdict, JSON rows, at-least-once. It is a simpler job (no hour totals, no ledger of sources, no
per-meter counters), and not exact: a crash loses and doubles.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import faust

from billing.records import UsageEvent
from schemas.codec import decode_record

__all__ = ["GROUP", "OUT_TOPIC", "SOURCE_TOPIC", "TABLES"]

SOURCE_TOPIC = "stock-events"
OUT_TOPIC = "stock-out"
GROUP = "stock"
TABLES = ("seen", "totals")


def build_app(bootstrap_servers: str, data_dir: str, partitions: int) -> Any:
    app = faust.App(
        GROUP,
        broker=f"kafka://{bootstrap_servers}",
        store="rocksdb://",
        datadir=data_dir,
        topic_partitions=partitions,
        topic_replication_factor=1,
        topic_disable_leader=True,
        table_standby_replicas=0,
        web_enabled=False,
        worker_redirect_stdouts=False,
    )
    source = app.topic(SOURCE_TOPIC, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")
    out = app.topic(OUT_TOPIC, key_type=bytes, key_serializer="raw", value_serializer="json")
    seen, totals = (
        app.Table(name, default=int, partitions=partitions, options={"driver": "rocksdict"}) for name in TABLES
    )

    async def count(stream: Any) -> None:
        async for event in stream.events():
            usage = decode_record(event.value)
            assert isinstance(usage, UsageEvent), "the load is usage events"
            account = event.key.decode()
            id_key = f"{account}/{usage.event_id}"
            is_duplicate = bool(seen[id_key])
            if not is_duplicate:
                seen[id_key] = event.message.offset + 1
                totals[account] += (usage.input_tokens or 0) + (usage.output_tokens or 0)
            fact = {"event_id": usage.event_id, "account": account, "duplicate": is_duplicate, "total": totals[account]}
            await out.send(key=event.key, value=fact)

    app.agent(source)(count)
    return app


def main() -> None:
    app = build_app(os.environ["BENCH_BROKER"], os.environ["BENCH_DATA_DIR"], int(os.environ["BENCH_PARTITIONS"]))
    sys.argv = ["stock_faust", "worker", "-l", "info", "--without-web"]
    app.main()


if __name__ == "__main__":
    main()

"""One recovery onto an empty disk, as a worker does it: `python -m bench.recover SERVERS FOLDER PARTITIONS`; prints JSON.

The clock runs from the first question to the broker until every table has reached its changelog's end.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path

from aiokafka.structs import TopicPartition

from streams.loader import load
from streams.log_reader import LogReader
from streams.options import Options
from streams.tables import TableFiles

__all__ = ["main"]


async def recover(servers: str, folder: Path, partitions: int) -> dict[str, float]:
    options = Options(servers, folder)
    files = TableFiles(folder / "tables", options.block_cache_bytes)
    began_s, began_cpu = time.perf_counter(), sum(os.times()[:2])
    tables = {
        TopicPartition(topic, number): files.get(table, number)
        for number in range(partitions)
        for table, topic in options.topics.changelogs.items()
    }
    async with LogReader(servers) as reader:
        records = await load(reader, tables, options.now_ms(), options.state_age_max_ms)
    wall_s = time.perf_counter() - began_s
    return {"records": records, "wall_s": wall_s, "cpu_s": sum(os.times()[:2]) - began_cpu}


def main() -> int:
    servers, folder, partitions = sys.argv[1:]
    print(json.dumps(asyncio.run(recover(servers, Path(folder), int(partitions)))))
    return 0


if __name__ == "__main__":
    sys.exit(main())

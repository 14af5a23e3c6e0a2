"""A store in dictionaries: the engine's read side, for tests of folds without a broker."""

from collections.abc import Sequence

from streams.port import TABLES, Epoch, Row


class MemoryStore:
    def __init__(self) -> None:
        self.tables: dict[str, dict[bytes, bytes]] = {table: {} for table in TABLES}

    def get_many(self, table: str, keys: Sequence[bytes]) -> list[Row]:
        return [self.tables[table].get(key) for key in keys]

    def scan(self, table: str, start: bytes, stop: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        return sorted(item for item in self.tables[table].items() if start <= item[0] < stop)[:limit]

    def apply(self, epoch: Epoch) -> None:
        for table, rows in epoch.rows.items():
            for key, value in rows.items():
                if value is None:
                    self.tables[table].pop(key, None)
                else:
                    self.tables[table][key] = value

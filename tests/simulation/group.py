"""A consumer group in its simplest form: who is in it, and who is given which partitions when that changes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random

from tests.simulation.worker import SESSION_S, Worker

__all__ = ["Group"]

_GATHER_S = 0.02


class Group:
    """Eager rebalances: everybody lets go, then each is given a share. Who does not answer is thrown out."""

    def __init__(
        self, partition_count: int, seed: int, on_rebalance: Callable[[], None], on_silent: Callable[[Worker], None]
    ) -> None:
        self.members: list[Worker] = []
        self.generation = 0
        self.is_settled = True
        """No rebalance is wanted or under way."""
        self._partitions = list(range(partition_count))
        self._seed = seed
        self._wanted = asyncio.Event()
        self._on_rebalance = on_rebalance
        self._on_silent = on_silent

    def join(self, worker: Worker) -> None:
        if worker.alive and worker not in self.members:
            self.members.append(worker)
            self.rebalance()

    def forget(self, worker: Worker) -> None:
        """The worker left, or was silent for too long; it is not told."""
        if worker in self.members:
            self.members.remove(worker)
            self.rebalance()

    def rebalance(self) -> None:
        self.is_settled = False
        self._wanted.set()

    async def run(self) -> None:
        while True:
            await self._wanted.wait()
            await asyncio.sleep(_GATHER_S)
            self._wanted.clear()
            await self._rebalance_once()
            self.is_settled = not self._wanted.is_set()

    async def _rebalance_once(self) -> None:
        self.generation += 1
        self._on_rebalance()
        members = list(self.members)
        if not members:
            return
        letting_go = {worker.spawn(worker.revoked()): worker for worker in members if worker.alive}
        if letting_go:
            _, silent = await asyncio.wait(letting_go, timeout=SESSION_S)
            for task in silent:
                self._on_silent(letting_go[task])
        present = [worker for worker in members if worker in self.members and worker.alive]
        shares = self._shares(present)
        for worker in present:
            if worker.alive:
                worker.spawn(worker.assigned(shares[worker], self.generation))
                await asyncio.sleep(_GATHER_S)

    def _shares(self, workers: list[Worker]) -> dict[Worker, frozenset[int]]:
        if not workers:
            return {}
        order = self._partitions.copy()
        Random(self._seed + self.generation).shuffle(order)
        return {worker: frozenset(order[index :: len(workers)]) for index, worker in enumerate(workers)}

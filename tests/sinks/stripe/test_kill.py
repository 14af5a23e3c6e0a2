"""The whole sink on a real broker against the double: killed anywhere, it ends with the exact totals at Stripe."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from pathlib import Path

import pytest

from billing.quantities import NANO
from billing.state import StripeHourKey
from tests.sinks.stripe.process import GAPS
from tests.sinks.stripe.world import Double, Fold, assert_traced, double, ended, sinks, told, until

pytestmark = pytest.mark.broker

HOUR = int(time.time()) // 3_600
ROW = StripeHourKey(HOUR, "org/ada", "org/ada", "tokens")
FAULTS = {
    "rate_limited": 0.05,
    "error_500": 0.05,
    "error_500_after_commit": 0.05,
    "cut_before_commit": 0.05,
    "cut_after_commit": 0.05,
    "timeout_before_commit": 0.03,
    "timeout_after_commit": 0.03,
    "late_commit": 0.04,
}


async def assert_exact(broker: str, fold: Fold, found: Double, deadline_s: float = 60.0) -> None:
    """Stripe ends with exactly the totals, what was accepted says the same, and nothing is pending."""
    expected = fold.expected()
    await until(lambda: found.standing() == expected, "equal totals", deadline_s)
    deadline = time.monotonic() + deadline_s
    while (book := await told(broker)).pending or {w: o.quantity for w, o in book.accepted.items()} != expected:
        assert time.monotonic() < deadline, f"the intents' book does not say what the totals are: {book}"
    await assert_traced(broker, found)


async def assert_stops(process: object) -> None:
    import subprocess

    assert isinstance(process, subprocess.Popen)
    process.send_signal(signal.SIGTERM)
    assert await ended(process, 5) == 0


def rows(rng: random.Random) -> list[StripeHourKey]:
    """Six accounts on two meters over three hours; two of them are one customer at Stripe."""
    accounts = [f"org-{n}/customer-{n}" for n in range(6)]
    customers = [*accounts[:4], "cus_shared", "cus_shared"]
    return [
        StripeHourKey(HOUR - back, account, customer, meter)
        for account, customer in zip(accounts, customers, strict=True)
        for meter in ("tokens", "calls")
        for back in (0, 1, 30)
    ]


@pytest.mark.faults
@pytest.mark.parametrize("seed", [11, 12])
def test_killed_at_random_moments_under_faults_it_ends_with_the_exact_totals(
    broker: str, tmp_path: Path, seed: int
) -> None:
    async def main() -> None:
        rng = random.Random(seed)
        fold = Fold(broker, seed)
        keys = rows(rng)

        def grow() -> None:
            chosen = rng.sample(keys, rng.randint(1, 8))
            fold.add(*((key, rng.randint(1, 10**12)) for key in chosen), commit=rng.random() > 0.1)

        async with double(tmp_path) as found, sinks(broker, found.url, tmp_path) as processes:
            await found.order(rates=FAULTS, seed=seed, hang_ms=700)
            for _ in range(5):
                process = processes.start()
                taken = len(found.identifiers())
                wanted = taken + rng.randint(1, 120)
                deadline = time.monotonic() + 30
                while len(found.identifiers()) < wanted and time.monotonic() < deadline:
                    grow()
                    await asyncio.sleep(rng.random() / 20)
                process.kill()
                assert await ended(process) == -signal.SIGKILL
            grow()
            await found.order()
            process = processes.start()
            await assert_exact(broker, fold, found)
            while (await found.show())["hanging"]:
                await asyncio.sleep(0.02)
            assert found.standing() == fold.expected()
            await assert_stops(process)

    asyncio.run(main())


@pytest.mark.faults
def test_killed_at_each_gap_of_the_order_it_goes_on_where_it_was(broker: str, tmp_path: Path) -> None:
    async def main() -> None:
        fold = Fold(broker)
        keys = rows(random.Random(1))
        async with double(tmp_path) as found, sinks(broker, found.url, tmp_path) as processes:
            for gap in GAPS:
                fold.add(*((key, NANO + n) for n, key in enumerate(keys)))
                process = processes.start(die_at=(gap, 7 if gap == "between_requests" else 1))
                assert await ended(process) == -signal.SIGKILL, gap
                fold.add((keys[0], NANO))
            process = processes.start()
            await assert_exact(broker, fold, found)
            await assert_stops(process)

    asyncio.run(main())

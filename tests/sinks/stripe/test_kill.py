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
from schemas.intents import Window
from sinks.stripe.sink import EXIT_BROKEN
from tests.sinks.stripe.process import GAPS
from tests.sinks.stripe.world import (
    Fold,
    assert_exact,
    assert_stops,
    assert_traced,
    double,
    ended,
    sinks,
    until,
    until_hanging,
)

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
            await until_hanging(found, 0)
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


@pytest.mark.faults
@pytest.mark.parametrize("plant", [None, "unknown_is_failure"], ids=["the sink", "planted: no answer is a failure"])
def test_a_request_that_arrives_late_never_puts_an_old_total_over_a_new_one(
    broker: str, tmp_path: Path, plant: str | None
) -> None:
    async def main() -> dict[Window, str]:
        fold = Fold(broker)
        async with double(tmp_path) as found, sinks(broker, found.url, tmp_path) as processes:
            await found.order(next=["late_commit"], hang_ms=1_500)
            fold.add((ROW, 5 * NANO))
            processes.start(plant=plant)
            await until_hanging(found, 1)
            fold.add((ROW, 4 * NANO))
            window = next(iter(fold.expected()))
            await until(lambda: found.standing().get(window) == "9", "the new total at Stripe")
            await until_hanging(found, 0)
            if plant is None:
                await assert_traced(broker, found)
            else:
                with pytest.raises(AssertionError, match="taken after a newer one"):
                    await assert_traced(broker, found)
            return found.standing()

    (value,) = asyncio.run(main()).values()
    assert value == ("9" if plant is None else "5")


@pytest.mark.faults
def test_planted_an_intent_after_its_request_is_found(broker: str, tmp_path: Path) -> None:
    async def main() -> None:
        fold = Fold(broker)
        async with double(tmp_path) as found, sinks(broker, found.url, tmp_path) as processes:
            fold.add((ROW, 5 * NANO))
            process = processes.start(plant="intent_after_request", die_at=("between_requests", 1))
            assert await ended(process) == -signal.SIGKILL
            fold.add((ROW, 4 * NANO))
            processes.start()
            with pytest.raises(AssertionError, match="taken without an intent on the log"):
                await assert_exact(broker, fold, found)

    asyncio.run(main())


@pytest.mark.faults
def test_a_stopped_sink_that_wakes_up_after_its_successor_came_writes_nothing(broker: str, tmp_path: Path) -> None:
    async def main() -> None:
        fold = Fold(broker)
        async with double(tmp_path) as found, sinks(broker, found.url, tmp_path) as processes:
            await found.order(next=["late_commit"], hang_ms=2_500)
            fold.add((ROW, 5 * NANO))
            zombie = processes.start(request_timeout_s=60)
            await until_hanging(found, 1)
            zombie.send_signal(signal.SIGSTOP)
            successor = processes.start()
            fold.add((ROW, 4 * NANO))
            await assert_exact(broker, fold, found)
            await until_hanging(found, 0)
            zombie.send_signal(signal.SIGCONT)
            fold.add((ROW, 2 * NANO))
            assert await ended(zombie) == EXIT_BROKEN
            assert "sink.stripe.replaced" in processes.log()
            await assert_exact(broker, fold, found)
            await assert_stops(successor)

    asyncio.run(main())

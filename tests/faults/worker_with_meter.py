"""`meterlog worker` after a change of the catalog: it knows the meter `kilograms`, and every plan names `custom1`.

python -m tests.faults.worker_with_meter
"""

from __future__ import annotations

import sys
from typing import Final

from billing.catalog.builtin import BUILTIN_CATALOG
from billing.catalog.types import Catalog, Meter, Plan, PlanMeter
from runtime.processes import run_worker_process
from runtime.settings import load_settings

__all__ = ["CHANGED"]


def _changed() -> Catalog:
    plan = BUILTIN_CATALOG.plans[BUILTIN_CATALOG.default_plan]
    more = Plan(plan.ref, plan.name, plan.quota_period, {**plan.meters, "custom1": PlanMeter()})
    meters = [*BUILTIN_CATALOG.meters.values(), Meter("kilograms")]
    return Catalog.build(revision=1, currency="USD", meters=meters, plans=[more], default=plan.ref)


CHANGED: Final = _changed()


if __name__ == "__main__":
    sys.exit(run_worker_process(load_settings(None), CHANGED))

"""GET /v1/customers/{customer_id}/usage: what a customer used, from ClickHouse, and as of when."""

import logging
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Final

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from api.auth import authorize
from api.clickhouse import ClickHouse, QueryFailed
from api.envelope import correlation_id, json_response
from api.errors import BadRequest, UsageUnavailable
from api.key_ring import KeyRing
from api.say import say
from api.window import Window, window_of
from billing.accounts.types import AccountName
from billing.metering.rules import ID_BYTES_MAX, LABEL_BYTES_MAX
from billing.routing import partition_of
from observe.api import ApiEvent
from schemas.timestamps import timestamp
from schemas.topics import LEDGER

__all__ = ["MeterUsage", "Usage", "UsageDoor"]

_PARAMETERS: Final = ("from", "to", "meter")
_SUMS: Final = """
    SELECT meter, sum(quantity) AS used, sum(event_count) AS events FROM usage
    WHERE org = {org:String} AND customer_id = {customer_id:String}
        AND hour >= toDateTime({start_s:Int64}, 'UTC') AND hour < toDateTime({end_s:Int64}, 'UTC')
        AND ({meter:String} = '' OR meter = {meter:String})
    GROUP BY meter ORDER BY meter
"""
# The position is read before the sums: read after them, it could name events that they do not have yet.
_POSITION: Final = "SELECT log_ms FROM positions WHERE topic = {topic:String} AND partition = {partition:UInt32}"


class MeterUsage(msgspec.Struct, frozen=True):
    meter: str
    quantity: str
    """Plain decimal, exact. A string: most JSON readers would make a float of a number."""
    event_count: int


class Usage(msgspec.Struct, frozen=True, rename={"from_": "from"}):
    """The answer. A customer that nobody knows looks like one that used nothing."""

    customer_id: str
    from_: str
    to: str
    as_of: str | None
    """Log time up to which it is complete for this customer; null while nothing of its partition was counted."""
    usage: tuple[MeterUsage, ...]


class UsageDoor:
    """The route's collaborators. `partitions` is the partition count of `usage-events`."""

    def __init__(self, clickhouse: ClickHouse, ring: KeyRing, now_ms: Callable[[], int], partitions: int) -> None:
        self._clickhouse = clickhouse
        self._ring = ring
        self._now_ms = now_ms
        self._partitions = partitions

    async def get(self, request: Request) -> Response:
        """Answers 200 for every customer id; what is wrong with the request is in `errors`' tree."""
        key = authorize(request.headers, self._ring, "read")
        problems: dict[str, str] = {}
        parameters = _parameters(request, problems)
        window = window_of(parameters, self._now_ms(), problems)
        meter = _checked("meter", parameters.get("meter", ""), LABEL_BYTES_MAX, problems)
        customer_id = _checked("customer_id", request.path_params["customer_id"], ID_BYTES_MAX, problems)
        if problems:
            raise BadRequest("; ".join(f"{name}: {problem}" for name, problem in problems.items()), details=problems)
        name = AccountName(key.org, customer_id)
        try:
            found = await run_in_threadpool(self._read, name, window, meter)
        except QueryFailed as exc:
            say(ApiEvent.CLICKHOUSE_FAILED, level=logging.ERROR, reason=str(exc))
            raise UsageUnavailable("ClickHouse does not answer; ask again") from exc
        return json_response(200, found, correlation_id(request.headers))

    def _read(self, name: AccountName, window: Window, meter: str) -> Usage:
        partition = partition_of(str(name).encode(), self._partitions)
        position = self._clickhouse.rows(_POSITION, {"topic": LEDGER, "partition": partition})
        sums = self._clickhouse.rows(_SUMS, {**name._asdict(), **window._asdict(), "meter": meter})
        return Usage(
            name.customer_id,
            timestamp(window.start_s * 1_000),
            timestamp(window.end_s * 1_000),
            timestamp(position[0][0]) if position else None,
            tuple(MeterUsage(meter, _plain(used), count) for meter, used, count in sums),
        )


def _parameters(request: Request, problems: dict[str, str]) -> Mapping[str, str]:
    """The query's parameters, each known and given once: a misspelt `from` would silently ask something else."""
    found: dict[str, str] = {}
    for name, text in request.query_params.multi_items():
        if name not in _PARAMETERS:
            problems[name[:80]] = f"is not a parameter; {', '.join(_PARAMETERS)} are"
        elif name in found:
            problems[name] = "is given twice"
        found[name] = text
    return found


def _checked(name: str, text: str, bytes_max: int, problems: dict[str, str]) -> str:
    """What could never be an id or a label is refused, and not looked for."""
    size_bytes = len(text.encode("utf-8", "replace"))
    if size_bytes > bytes_max:
        problems[name] = f"is {size_bytes} bytes of UTF-8; at most {bytes_max} are taken"
    elif "\0" in text:
        problems[name] = "holds U+0000"
    return text


def _plain(quantity: Decimal) -> str:
    text = f"{quantity:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text

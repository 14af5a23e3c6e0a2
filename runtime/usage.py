"""What an organisation's customers used, as analysts see it: read from ClickHouse's view `usage`."""

import json
from decimal import Decimal
from typing import Any, NamedTuple

import clickhouse_connect
from rich.console import Console
from rich.table import Table

from billing.accounts.types import check_org
from billing.errors import InvalidField
from runtime.errors import CommandError
from runtime.settings import Settings

__all__ = ["CustomerUsage", "clickhouse_client", "print_usage", "usage_of"]

_USAGE_OF_ORG = """
    SELECT customer_id, meter, sum(quantity) AS used, sum(event_count) AS events
    FROM meterlog.usage
    WHERE org = {org:String}
    GROUP BY customer_id, meter
    ORDER BY customer_id, meter
"""


class CustomerUsage(NamedTuple):
    customer: str
    meter: str
    quantity: Decimal
    events: int


def clickhouse_client(settings: Settings) -> Any:
    """A client of the settings' ClickHouse. Raises CommandError where it does not answer."""
    try:
        return clickhouse_connect.get_client(
            dsn=settings.clickhouse_url,
            username=settings.clickhouse_user,
            password=settings.clickhouse_password.get_secret_value(),
        )
    except clickhouse_connect.driver.exceptions.ClickHouseError as exc:
        message = f"ClickHouse at {settings.clickhouse_url} does not answer: {exc}"
        raise CommandError(message) from exc


def usage_of(settings: Settings, org: str) -> list[CustomerUsage]:
    """All that the organisation's customers used, by customer and meter."""
    try:
        check_org(org)
    except InvalidField as exc:
        raise CommandError(str(exc)) from exc
    rows = clickhouse_client(settings).query(_USAGE_OF_ORG, parameters={"org": org}).result_rows
    return [CustomerUsage(*row) for row in rows]


def print_usage(rows: list[CustomerUsage], *, as_json: bool) -> None:
    console = Console()
    if as_json:
        shown = [{"customer": r.customer, "meter": r.meter, "quantity": plain_decimal(r.quantity)} for r in rows]
        console.out(json.dumps(shown, indent=2), highlight=False)
        return
    table = Table("customer", "meter")
    table.add_column("quantity", justify="right")
    table.add_column("events", justify="right")
    for row in rows:
        table.add_row(row.customer, row.meter, plain_decimal(row.quantity), str(row.events))
    console.print(table)


def plain_decimal(value: Decimal) -> str:
    """Digits as a person writes them: no exponent, no trailing zeros after the point."""
    text = format(value, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text

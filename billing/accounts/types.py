"""Words that accounts share: the customer's name on the log."""

import re
from functools import lru_cache
from typing import NamedTuple

from billing.errors import InvalidField

__all__ = ["AccountName", "check_org", "parse_account"]

_ORG = re.compile(r"[a-z0-9-]{1,63}", re.ASCII)
_KEY_BYTES_MAX = 63 + 1 + 256
"""An org, the slash, a customer id. Longer keys are refused before anything is reckoned from them: the hash of a key of
1 MB takes 0.2 s."""


class AccountName(NamedTuple):
    """Whose usage it is: an organisation's customer. On the log it is the key, `org/customer` in UTF-8."""

    org: str
    customer_id: str

    def __str__(self) -> str:
        return f"{self.org}/{self.customer_id}"


@lru_cache(maxsize=65_536)  # 1.1 µs; a partition's customers come again and again
def parse_account(key: bytes | None) -> AccountName:
    """A record's key as an account; the first `/` splits. Raises InvalidField where it is none."""
    if key is None:
        raise InvalidField("key", "is missing; the record's key must be org/customer")
    if len(key) > _KEY_BYTES_MAX:
        raise InvalidField("key", f"is {len(key)} bytes; at most {_KEY_BYTES_MAX} are taken")
    try:
        text = key.decode()
    except UnicodeDecodeError as exc:
        raise InvalidField("key", "is not UTF-8; the record's key must be org/customer") from exc
    org, slash, customer_id = text.partition("/")
    if not slash or not customer_id:
        raise InvalidField("key", f"{text[:48]!a} is not of the form org/customer")
    return AccountName(check_org(org), customer_id)


def check_org(org: str) -> str:
    """The organisation's id itself. Raises InvalidField when it is not one."""
    if not _ORG.fullmatch(org):
        raise InvalidField("org", f"{org[:80]!a} is not 1 to 63 of the characters a-z, 0-9 and -")
    return org

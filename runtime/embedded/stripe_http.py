"""How the double reads requests and writes answers: Stripe's forms, JSON bodies, error envelopes and lists."""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import msgspec
from aiohttp import web

from runtime.embedded.stripe_rules import Refusal

__all__ = ["DOUBLE_HEADER", "cut", "error_answer", "json_answer", "number", "page", "parse_form", "read_json"]

T = TypeVar("T")

DOUBLE_HEADER = "X-Meterlog-Double"
"""On every answer of the double, never on one of Stripe's."""
_LIMIT_DEFAULT = 10
_LIMIT_MAX = 100
_FORM_KEY = re.compile(r"\[([^\]]*)\]")


def json_answer(body: object, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return json_text_answer(msgspec.json.encode(body).decode(), status, headers)


def json_text_answer(text: str, status: int, headers: dict[str, str] | None = None) -> web.Response:
    given = {"Request-Id": f"req_double_{secrets.token_hex(8)}", **(headers or {})}
    return web.Response(text=text, status=status, content_type="application/json", headers=given)


def error_answer(refusal: Refusal, headers: dict[str, str] | None = None) -> web.Response:
    """Stripe's error envelope; what is None is left out, as Stripe does."""
    named = {"type": refusal.type, "code": refusal.code, "message": refusal.message, "param": refusal.param}
    error = {name: value for name, value in named.items() if value is not None}
    return json_answer({"error": error}, refusal.status, headers)


def cut(request: web.Request) -> web.Response:
    """End the connection without an answer; the returned one goes nowhere."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


def parse_form(text: str) -> dict[str, Any]:
    """A form body as nested dictionaries: `payload[value]=1` is {"payload": {"value": "1"}}."""
    form: dict[str, Any] = {}
    for name, value in parse_qsl(text, keep_blank_values=True):
        head, *rest = [name.partition("[")[0], *_FORM_KEY.findall(name)]
        at = form
        for part in rest:
            inner = at.setdefault(head, {})
            at, head = (inner, part) if isinstance(inner, dict) else ({}, part)
        at[head] = value
    return form


async def read_json(request: web.Request, shape: type[T]) -> T | Refusal:
    """The JSON body, of the given shape."""
    try:
        return msgspec.json.decode(await request.read(), type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        return Refusal(400, "parameter_invalid", f"The body is not valid: {exc}")


def number(text: object) -> int | None:
    """A whole number of a query or a form; None where it is none."""
    return int(text) if isinstance(text, str) and text.isascii() and text.isdigit() else None


def page(request: web.Request, items: Sequence[dict[str, Any]]) -> web.Response:
    """One page of a list, by Stripe's cursors: limit (1 to 100, default 10), starting_after, ending_before."""
    limit = number(request.query.get("limit", str(_LIMIT_DEFAULT)))
    if limit is None or not 1 <= limit <= _LIMIT_MAX:
        return error_answer(Refusal(400, "parameter_invalid", f"limit is 1 to {_LIMIT_MAX}.", "limit"))
    ids = [item["id"] for item in items]
    after, before = request.query.get("starting_after"), request.query.get("ending_before")
    for cursor in (after, before):
        if cursor is not None and cursor not in ids:
            return error_answer(Refusal(400, "resource_missing", f"No such object: {cursor}."))
    if before is not None:
        end = ids.index(before)
        start = max(0, end - limit)
        more = start > 0
    else:
        start = 0 if after is None else ids.index(after) + 1
        end = start + limit
        more = end < len(items)
    return json_answer({"object": "list", "url": request.path, "has_more": more, "data": list(items[start:end])})

"""Who asks, and what they may do."""

from collections.abc import Mapping

from api.errors import Forbidden, NotReady, Unauthorized
from api.key_ring import KeyRing
from schemas.codec import ApiKey

__all__ = ["authorize"]

_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="meterlog"'}


def authorize(headers: Mapping[str, str], ring: KeyRing, scope: str) -> ApiKey:
    """The key that the request came with, if it may do `scope`. Raises Unauthorized, Forbidden, NotReady.

    `Authorization: Bearer` goes before `x-api-key` where both are sent.
    """
    if not ring.loaded.is_set():
        raise NotReady("the API keys are still being read; send the request again")
    token = _token(headers)
    key = ring.find(token) if token else None
    if key is None:
        msg = "no valid API key; send Authorization: Bearer mk_… (meterlog keys create makes one)"
        raise Unauthorized(msg, headers=_CHALLENGE)
    if scope not in key.scopes:
        msg = f"the key's scopes ({', '.join(key.scopes)}) do not include {scope!r}, which this needs"
        raise Forbidden(msg)
    return key


def _token(headers: Mapping[str, str]) -> str | None:
    authorization = headers.get("authorization")
    if authorization is None:
        return headers.get("x-api-key")
    scheme, _, token = authorization.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None

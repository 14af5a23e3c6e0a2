"""What a caller is ready to read."""

from collections.abc import Mapping

from api.errors import NotAcceptable

__all__ = ["check_accept"]

_JSON_RANGES = frozenset(("application/json", "application/*", "*/*"))


def check_accept(headers: Mapping[str, str]) -> None:
    """Raises NotAcceptable when the caller's Accept header names ranges and none of them takes JSON.

    `application/vnd.….v1+json` and its like are JSON too.
    """
    accept = headers.get("accept", "")
    if accept.strip() and not any(_takes_json(part) for part in accept.split(",")):
        msg = f"Accept {accept[:80]!r} leaves out application/json, which is what this answers with"
        raise NotAcceptable(msg)


def _takes_json(media_range: str) -> bool:
    kind, *parameters = (part.strip().lower() for part in media_range.split(";"))
    is_refused = any(parameter.replace(" ", "") in ("q=0", "q=0.0", "q=0.00", "q=0.000") for parameter in parameters)
    return not is_refused and (kind in _JSON_RANGES or kind.endswith("+json"))

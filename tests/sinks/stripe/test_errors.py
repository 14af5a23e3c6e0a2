"""Every failure of Stripe's library has a name of ours, by what the sink does about it."""

from __future__ import annotations

import gc

import aiohttp
import pytest
import stripe

from sinks.stripe.errors import (
    FOREIGN_ERRORS,
    Misconfigured,
    Refused,
    StripeSinkError,
    TryAgain,
    Unknown,
    from_foreign_error,
    is_duplicate,
    stripe_exceptions,
)


def unmapped() -> list[str]:
    """Stripe's own exception classes that the table does not name."""
    own = (kind for kind in stripe_exceptions() if kind.__module__.startswith("stripe."))
    return [kind.__qualname__ for kind in own if kind not in FOREIGN_ERRORS]


def test_every_exception_class_of_stripes_library_is_in_the_table() -> None:
    assert unmapped() == []
    assert len(list(stripe_exceptions())) > 30, "the walk finds the classes"


def test_planted_a_class_that_is_not_in_the_table_is_found() -> None:
    planted = type("PlantedError", (stripe.APIError,), {"__module__": "stripe._error"})
    assert unmapped() == ["PlantedError"]
    del planted
    gc.collect()  # a class stays among its base's subclasses until it is collected
    assert unmapped() == []


def answer(status: int, code: str | None = None, message: str = "no", kind: str | None = None) -> Exception:
    """The exception that the library makes of an error answer of v2."""
    error = {name: value for name, value in (("code", code), ("message", message), ("type", kind)) if value}
    requestor = stripe.StripeClient("sk_test_x")._requestor
    with pytest.raises(stripe.StripeError) as raised:
        requestor.handle_error_response(b"{}", status, {"error": error}, {}, "V2")
    return raised.value


def cut() -> Exception:
    return stripe.APIConnectionError("cut")  # type: ignore[no-untyped-call]  # without annotations in the library


@pytest.mark.parametrize(
    ("exc", "expected"),
    [
        pytest.param(answer(400, "no_meter"), Refused, id="a missing meter refuses the total"),
        pytest.param(answer(400, "archived_meter"), Refused, id="an archived meter refuses the total"),
        pytest.param(answer(400, "payload_invalid_value"), Refused, id="a value of 16 digits is refused"),
        pytest.param(answer(400, "timestamp_too_far_in_past"), Refused, id="an hour too old is refused"),
        pytest.param(answer(409, "too_many_concurrent_requests"), TryAgain, id="one at a time: again, nothing taken"),
        pytest.param(answer(429), TryAgain, id="a rate limit: again, nothing taken"),
        pytest.param(answer(400, "rate_limit"), TryAgain, id="a rate limit said with 400"),
        pytest.param(answer(409, kind="idempotency_error"), TryAgain, id="the same key under way: again"),
        pytest.param(answer(400, kind="idempotency_error"), Refused, id="the key used for something else"),
        pytest.param(answer(500), Unknown, id="a 500 says nothing about the event"),
        pytest.param(answer(503), Unknown, id="a 503 says nothing about the event"),
        pytest.param(answer(401), Misconfigured, id="a refused key stops the sink"),
        pytest.param(answer(403), Misconfigured, id="a missing permission stops the sink"),
        pytest.param(answer(404, "resource_missing"), Misconfigured, id="no such path: not Stripe"),
        pytest.param(cut(), Unknown, id="a cut connection"),
        pytest.param(stripe.APIError("<html>", http_status=200), Unknown, id="an answer that is not Stripe's"),
        pytest.param(aiohttp.ClientPayloadError("half an answer"), Unknown, id="half an answer"),
        pytest.param(TimeoutError(), Unknown, id="no answer in time"),
        pytest.param(ConnectionResetError(), Unknown, id="a reset connection"),
    ],
)
def test_a_failure_is_what_the_sink_does_about_it(exc: Exception, expected: type[StripeSinkError]) -> None:
    assert type(from_foreign_error(exc)) is expected


def test_a_refusal_keeps_stripes_code() -> None:
    refused = from_foreign_error(answer(400, "no_meter", "No meter takes\n that."))
    assert isinstance(refused, Refused)
    assert (refused.code, refused.message) == ("no_meter", "No meter takes that.")


@pytest.mark.parametrize(
    ("exc", "expected"),
    [
        pytest.param(answer(400, "duplicate_meter_event"), True, id="v2 says it with a code"),
        pytest.param(
            answer(400, message="An event already exists with identifier id-1."), True, id="v1 says it in words"
        ),
        pytest.param(
            answer(400, message="An event already exists with identifier id-2."), False, id="another's identifier"
        ),
        pytest.param(answer(400, "no_meter", "already exists with identifier id-1"), False, id="another code"),
        pytest.param(TimeoutError(), False, id="no answer"),
    ],
)
def test_a_duplicate_of_our_own_identifier_is_told_from_other_refusals(exc: Exception, expected: bool) -> None:
    assert is_duplicate(exc, "id-1") is expected

from __future__ import annotations

import pytest

from ollad import errors
from ollad.errors import (
    ConfigError,
    GatewayError,
    NotFoundError,
    TooManyRequestsError,
    UnavailableError,
)

STATUSES = {
    errors.BadRequestError: 400,
    errors.UnauthorizedError: 401,
    errors.ForbiddenError: 403,
    errors.NotFoundError: 404,
    errors.MethodNotAllowedError: 405,
    errors.RequestTimeoutError: 408,
    errors.ConflictError: 409,
    errors.PayloadTooLargeError: 413,
    errors.UriTooLongError: 414,
    errors.UnsupportedMediaTypeError: 415,
    errors.TooManyRequestsError: 429,
    errors.HeadersTooLargeError: 431,
    errors.GatewayError: 500,
    errors.BackendError: 502,
    errors.UnavailableError: 503,
    errors.BackendTimeoutError: 504,
}


@pytest.mark.parametrize(("error", "status"), STATUSES.items())
def test_each_error_has_its_status_and_says_whose_fault_it_is(
    error: type[GatewayError], status: int
) -> None:
    assert error.status == status
    kind = "invalid_request_error" if status < 500 else "api_error"
    assert error.kind == ("rate_limit_error" if status == 429 else kind)


def test_every_error_that_is_answered_is_known_here() -> None:
    def family(error: type[GatewayError]) -> set[type[GatewayError]]:
        return {error}.union(*(family(child) for child in error.__subclasses__()))

    ours = {error for error in family(GatewayError) if error.__module__ == errors.__name__}
    assert ours == set(STATUSES)


def test_the_envelope_is_that_of_openai() -> None:
    error = NotFoundError("No such thing.", param="model", code="model_not_found")
    assert error.envelope() == {
        "error": {
            "message": "No such thing.",
            "type": "invalid_request_error",
            "param": "model",
            "code": "model_not_found",
        }
    }


def test_an_error_without_a_parameter_says_null() -> None:
    assert GatewayError("x").envelope()["error"]["param"] is None


def test_a_code_given_once_does_not_stick() -> None:
    assert GatewayError("x", code="special").code == "special"
    assert GatewayError("x").code == "internal_error"


def test_who_is_turned_away_learns_when_to_come_back() -> None:
    assert UnavailableError("x").headers["Retry-After"] == "1"
    assert UnavailableError("x", retry_after=30).headers["Retry-After"] == "30"
    assert TooManyRequestsError("x", retry_after=7).headers["Retry-After"] == "7"


def test_a_configuration_error_holds_every_problem() -> None:
    error = ConfigError(("a:1: one", "a:2: two"))
    assert error.problems == ("a:1: one", "a:2: two")
    assert str(error) == "a:1: one\na:2: two"

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from ollad.auth import Gate
from ollad.config.schema import ApiKey, Auth
from ollad.errors import BadRequestError, ForbiddenError, UnauthorizedError

ALICE, BOB = "sk-alice-0123456789", "sk-bob-0123456789abc"


def configured(name: str, secret: str, **settings: Any) -> ApiKey:
    return ApiKey(name=name, sha256=hashlib.sha256(secret.encode()).hexdigest(), **settings)


def gate(before: Gate | None = None, **settings: Any) -> Gate:
    keys = (configured("alice", ALICE, **settings), configured("bob", BOB))
    return Gate(Auth(keys=keys), 0.0, before)


def named(*headers: tuple[str, str]) -> str:
    return gate().authenticate(CIMultiDict(headers)).name


def refused(*headers: tuple[str, str]) -> UnauthorizedError:
    with pytest.raises(UnauthorizedError) as caught:
        gate().authenticate(CIMultiDict(headers))
    assert caught.value.status == 401
    return caught.value


def test_without_keys_the_gate_is_open() -> None:
    assert not Gate(Auth(), 0.0).closed
    assert gate().closed


@pytest.mark.parametrize(
    "header",
    [
        ("Authorization", f"Bearer {ALICE}"),
        ("authorization", f"bearer {ALICE}"),
        ("AUTHORIZATION", f"BEARER   {ALICE} "),
        ("X-API-Key", ALICE),
        ("x-api-key", f" {ALICE}"),
    ],
)
def test_a_key_is_known_by_either_header_in_any_spelling(header: tuple[str, str]) -> None:
    assert named(header) == "alice"


@pytest.mark.parametrize(
    "header",
    [
        ("Authorization", ALICE),
        ("Authorization", f"Basic {ALICE}"),
        ("Authorization", f"Bearer{ALICE}"),
        ("Authorization", f"Bearer\t{ALICE}"),
        ("Authorization", f"Bearer Bearer {ALICE}"),
        ("Authorization", f"Bearer {ALICE[:-1]}"),
        ("Authorization", f"Bearer {ALICE}x"),
        ("Authorization", f"Bearer {ALICE.upper()}"),
        ("Authorization", "Bearer "),
        ("Authorization", ""),
        ("Authorization", f"Bearer {hashlib.sha256(ALICE.encode()).hexdigest()}"),
        ("X-API-Key", f"Bearer {ALICE}"),
        ("X-API-Key", ""),
        ("X-API-Key", "\udcff\udcfe"),
        ("X-API-Key", f"{ALICE},{BOB}"),
        ("X-API-Key", "alice"),
        ("Api-Key", ALICE),
        ("Cookie", f"key={ALICE}"),
    ],
)
def test_anything_else_is_401_and_not_repeated(header: tuple[str, str]) -> None:
    error = refused(header)

    assert error.headers["WWW-Authenticate"].startswith("Bearer")
    assert ALICE not in error.message
    assert "alice" not in error.message


def test_a_missing_key_and_an_unknown_one_are_told_apart() -> None:
    assert refused().code == "missing_api_key"
    assert refused().headers == {"WWW-Authenticate": "Bearer"}
    unknown = refused(("X-API-Key", "x" * 20))
    assert unknown.code == "invalid_api_key"
    assert unknown.headers == {"WWW-Authenticate": 'Bearer error="invalid_token"'}


def test_x_api_key_goes_first_and_the_other_counts_if_it_is_not_known() -> None:
    both = (("Authorization", f"Bearer {BOB}"), ("X-API-Key", ALICE))
    assert named(*both) == "alice"
    assert named(("Authorization", f"Bearer {BOB}"), ("X-API-Key", "for-the-backend")) == "bob"
    assert named(("Authorization", "Bearer for-the-backend"), ("X-API-Key", ALICE)) == "alice"


@pytest.mark.parametrize("header", ["Authorization", "X-API-Key"])
def test_a_header_given_twice_is_not_believed(header: str) -> None:
    value = ALICE if header == "X-API-Key" else f"Bearer {ALICE}"

    refused((header, value), (header, value))
    refused((header, value), (header, "x"))


@given(st.text(max_size=60))
def test_no_text_but_a_key_is_let_in(text: str) -> None:
    for header in (
        ("X-API-Key", text),
        ("Authorization", text),
        ("Authorization", "Bearer " + text),
    ):
        with pytest.raises(UnauthorizedError):
            gate().authenticate(CIMultiDict([header]))


def test_a_key_of_ollads_is_taken_out_of_authorization_wherever_it_is() -> None:
    kept = (
        (b"Accept", b"*/*"),
        (b"Authorization", b"Bearer for-the-backend"),
        (b"Authorization", b"Bearer \xff"),
    )
    own = (
        (b"AUTHORIZATION", f"bearer {BOB}".encode()),
        (b"authorization", f"Bearer  {ALICE}".encode()),
    )

    assert gate().without_own((*own, *kept)) == kept


def test_nothing_shows_a_secret() -> None:
    one = gate()
    key = one.authenticate(CIMultiDict({"X-API-Key": ALICE}))
    for text in (repr(one), repr(key), repr(key.meter)):
        assert ALICE not in text
        assert hashlib.sha256(ALICE.encode()).hexdigest()[:8] not in text
        assert str(hashlib.sha256(ALICE.encode()).digest())[2:10] not in text


def test_what_a_key_has_used_outlives_a_reload_by_name() -> None:
    before = gate(requests_per_minute=1)
    lease = before.meters["alice"].lease("alice", 0.0)
    rotated = (configured("alice", "sk-another-0123456789", max_concurrent=1),)

    after = Gate(Auth(keys=rotated), 0.0, before)

    assert list(after.meters) == ["alice"]
    assert after.meters["alice"] is before.meters["alice"]
    assert after.meters["alice"].active == 1
    lease.release()
    assert after.meters["alice"].active == 0
    with pytest.raises(UnauthorizedError):
        after.authenticate(CIMultiDict({"X-API-Key": ALICE}))


def alice(*models: str, salt: bool = False) -> Any:
    return gate(models=models, cache_salt=salt).authenticate(CIMultiDict({"X-API-Key": ALICE}))


@pytest.mark.parametrize(
    ("pattern", "model", "fits"),
    [
        ("llama", "llama", True),
        ("llama", "llama-2", False),
        ("llama*", "llama", True),
        ("llama*", "my-llama", False),
        ("*", "", True),
        ("*8b", "llama-8b", True),
        ("a*a", "a", False),
        ("a*a", "aa", True),
        ("a*b*c", "a-c-b-c", True),
        ("a*b*c", "a-c-c", False),
        ("a*b*b", "ab", False),
        ("a**", "a", True),
        ("[ab]?", "a1", False),
        ("org/*", "org/x/y", True),
        ("Llama", "llama", False),
    ],
)
def test_a_star_stands_for_any_text(pattern: str, model: str, fits: bool) -> None:
    assert alice(pattern).permits(model) is fits


def test_a_key_without_models_may_use_all_and_one_with_some_only_those() -> None:
    alice().require("anything")
    few = alice("small", "llama-*")
    few.require("small")
    few.require("meta/llama-8b", "llama-8b")  # an id, and the alias that was asked for
    with pytest.raises(ForbiddenError) as caught:
        few.require("large", "l")
    assert (caught.value.status, caught.value.param) == (403, "model")
    assert "'large'" in caught.value.message
    assert "small" not in caught.value.message


def test_a_long_name_is_not_repeated_in_full() -> None:
    with pytest.raises(ForbiddenError) as caught:
        alice("small").require("x" * 10_000)
    assert len(caught.value.message) < 300


def test_a_pattern_full_of_stars_costs_no_time() -> None:
    assert not alice("*a" * 50 + "b").permits("a" * 100_000)


def test_a_salt_is_a_clients_own_and_always_the_same() -> None:
    one = alice(salt=True)
    other = gate().authenticate(CIMultiDict({"X-API-Key": BOB}))

    assert one.salted
    assert not other.salted
    assert one.cache_salt(None) == alice(salt=True).cache_salt(None)
    assert one.cache_salt(None) == one.cache_salt("")
    assert len(one.cache_salt(None)) == 32
    assert one.cache_salt(None) != other.cache_salt(None)
    assert hashlib.sha256(ALICE.encode()).hexdigest()[:32] != one.cache_salt(None)


def test_a_clients_own_salts_divide_its_own_part_only() -> None:
    one, other = alice(), gate().authenticate(CIMultiDict({"X-API-Key": BOB}))

    assert one.cache_salt("a") != one.cache_salt("b")
    assert one.cache_salt(["a", "b"]) == [one.cache_salt("a"), one.cache_salt("b")]
    for salt in ("a", other.cache_salt(None)):
        assert one.cache_salt(salt) != other.cache_salt(salt)
        assert one.cache_salt(salt) != salt
    wrongs: tuple[object, ...] = (7, {}, ["a", 1], True)
    for wrong in wrongs:
        with pytest.raises(BadRequestError) as caught:
            one.cache_salt(wrong)
        assert caught.value.param == "cache_salt"

from __future__ import annotations

import pytest

from ollad.backends.pool import Pool
from ollad.backends.snapshot import State
from ollad.errors import NotFoundError
from tests.unit.builders import make_backend


def make_pool() -> Pool:
    return Pool(
        [
            make_backend("b", models=("m2", "m1")),
            make_backend("a", models=("m2", "org/m3")),
            make_backend("down", models=("lost",), state=State.DOWN),
        ]
    )


def test_backends_keep_the_order_of_the_configuration() -> None:
    pool = make_pool()
    assert [backend.name for backend in pool] == ["b", "a", "down"]
    assert len(pool) == 3


def test_a_backend_is_found_by_its_name() -> None:
    pool = make_pool()
    assert pool.named("down").name == "down"
    assert pool.get("a") is pool.named("a")
    assert pool.get("c") is None


def test_an_unknown_name_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(NotFoundError, match=r"'c'.*b, a, down") as caught:
        make_pool().named("c")
    assert caught.value.status == 404
    assert caught.value.param == "endpoint"


def test_a_very_long_name_is_not_repeated_whole() -> None:
    with pytest.raises(NotFoundError) as caught:
        make_pool().named("x" * 10_000)
    assert len(caught.value.message) < 300


def test_only_routable_backends_count() -> None:
    pool = make_pool()
    assert [backend.name for backend in pool.routable()] == ["b", "a"]
    assert pool.models() == ("m1", "m2", "org/m3")


def test_its_repr_shows_its_backends() -> None:
    assert repr(Pool([make_backend("a")])) == "<Pool [<Backend a healthy w=1.00 in-flight=0>]>"

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollad.backends.pool import Pool
from ollad.backends.snapshot import State
from ollad.errors import NotFoundError
from tests.unit.builders import card, make_backend


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


def test_who_serves_a_model_are_those_that_list_it_and_take_requests() -> None:
    pool = make_pool()
    assert pool.serving("m2") == (pool.named("b"), pool.named("a"))
    assert pool.serving("org/m3") == (pool.named("a"),)
    assert pool.serving("lost") == ()
    assert pool.serving("made up") == ()


def test_what_was_worked_out_follows_the_snapshots() -> None:
    pool = make_pool()
    a, b, down = pool.named("a"), pool.named("b"), pool.named("down")
    assert (pool.serving("m2"), pool.routable()) == ((b, a), (b, a))
    a.snapshot = replace(a.snapshot, models=(card("m1"),))
    assert (pool.serving("m1"), pool.serving("m2")) == ((b, a), (b,))
    b.snapshot = replace(b.snapshot, state=State.DOWN)
    assert (pool.serving("m1"), pool.serving("m2"), pool.routable()) == ((a,), (), (a,))
    down.snapshot = replace(down.snapshot, state=State.RECOVERING)
    assert (pool.serving("lost"), pool.routable()) == ((down,), (a, down))


def test_what_was_worked_out_follows_an_operators_orders() -> None:
    pool = make_pool()
    a, b = pool.named("a"), pool.named("b")
    assert pool.serving("m2") == (b, a)
    b.drained_at = 1.0
    assert (pool.serving("m2"), pool.routable()) == ((a,), (a,))
    b.drained_at = None
    assert (pool.serving("m2"), pool.routable()) == ((b, a), (b, a))


def test_every_pool_of_a_backend_follows_it() -> None:
    old = make_pool()
    a = old.named("a")
    new = Pool([a])
    assert (old.serving("org/m3"), new.serving("org/m3")) == ((a,), (a,))
    a.snapshot = replace(a.snapshot, models=())
    assert (old.serving("org/m3"), new.serving("org/m3")) == ((), ())


def test_a_backend_does_not_keep_the_pools_that_have_been_retired() -> None:
    old = make_pool()
    a = old.named("a")
    before = sys.getrefcount(old)
    new = Pool([a])
    old.retire()
    assert sys.getrefcount(old) == before - len(old)
    assert (old.serving("org/m3"), new.serving("org/m3")) == ((a,), (a,))
    a.snapshot = replace(a.snapshot, models=())
    assert (old.serving("org/m3"), new.serving("org/m3")) == ((), ())


@given(
    st.lists(
        st.tuples(
            st.integers(0, 2),
            st.sampled_from(State),
            st.sets(st.sampled_from("mno")),
            st.booleans(),
        )
    )
)
def test_what_was_worked_out_is_what_would_be_worked_out_now(
    changes: list[tuple[int, State, set[str], bool]],
) -> None:
    pool = make_pool()
    for which, state, models, drained in changes:
        backend = list(pool)[which]
        cards = tuple(card(model) for model in sorted(models))
        backend.snapshot = replace(backend.snapshot, state=state, models=cards)
        backend.drained_at = 1.0 if drained else None
        for model in "mnop":
            expected = tuple(b for b in pool if b.routable and model in b.snapshot.model_ids)
            assert pool.serving(model) == expected
        assert pool.routable() == tuple(b for b in pool if b.routable)


def test_names_that_clients_make_up_are_not_kept() -> None:
    pool = make_pool()
    for number in range(100):
        assert pool.serving(f"made up {number}") == ()
    assert not pool._by_model


def test_its_repr_shows_its_backends() -> None:
    assert repr(Pool([make_backend("a")])) == "<Pool [<Backend a healthy w=1.00 in-flight=0>]>"

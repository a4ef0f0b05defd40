from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ollad.routing.admission import FairLine


def line(*waiters: str, size: int = 100) -> FairLine[str]:
    """A line of waiters whose first letter names their client."""
    made: FairLine[str] = FairLine(size)
    for waiter in waiters:
        assert made.join(waiter[0], waiter) is None
    return made


def drained(waiting: FairLine[str]) -> list[str]:
    """All, in the order in which they are served."""
    order = []
    while waiting:
        first = next(iter(waiting))
        waiting.served(first[0], first)
        order.append(first)
    return order


def test_one_clients_requests_keep_their_order() -> None:
    assert drained(line("a1", "a2", "a3")) == ["a1", "a2", "a3"]


def test_clients_take_turns() -> None:
    assert drained(line("a1", "a2", "a3", "b1", "c1", "c2")) == [
        *("a1", "b1", "c1"),
        *("a2", "c2"),
        "a3",
    ]


def test_who_was_served_is_last_to_be_served_again() -> None:
    waiting = line("a1", "a2", "b1")
    waiting.served("a", "a1")
    waiting.join("c", "c1")
    assert drained(waiting) == ["b1", "a2", "c1"]


def test_to_leave_costs_no_turn() -> None:
    waiting = line("a1", "a2", "b1")
    waiting.leave("a", "a1")
    assert drained(waiting) == ["a2", "b1"]


def test_to_leave_twice_is_to_leave_once() -> None:
    waiting = line("a1", "b1")
    waiting.leave("a", "a1")
    waiting.leave("a", "a1")
    waiting.leave("z", "z1")
    assert len(waiting) == 1


def test_in_a_full_line_there_is_no_room() -> None:
    waiting = line("a1", "a2", size=2)
    assert waiting.join("a", "a3") == "a3"
    assert drained(waiting) == ["a1", "a2"]


def test_a_line_of_no_size_takes_nobody() -> None:
    assert line(size=0).join("a", "a1") == "a1"


def test_in_a_full_line_the_last_of_the_greediest_makes_room_for_another() -> None:
    waiting = line("a1", "a2", "a3", "b1", size=4)
    assert waiting.join("c", "c1") == "a3"
    assert sorted(drained(waiting)) == ["a1", "a2", "b1", "c1"]


def test_nobody_makes_room_for_a_client_that_would_have_as_much() -> None:
    waiting = line("a1", "a2", "b1", "b2", size=4)
    assert waiting.join("b", "b3") == "b3"
    waiting = line("a1", "a2", "b1", size=3)
    assert waiting.join("b", "b2") == "b2"


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from(["join", "leave", "serve"])), max_size=60
    ),
    st.integers(1, 8),
)
def test_nobody_is_lost_or_served_twice(events: list[tuple[str, str]], size: int) -> None:
    waiting: FairLine[str] = FairLine(size)
    present: dict[str, None] = {}
    for number, (client, event) in enumerate(events):
        name = f"{client}{number}"
        mine = [waiter for waiter in present if waiter[0] == client]
        match event:
            case "join":
                present[name] = None
                evicted = waiting.join(client, name)
                if evicted is not None:
                    assert len(present) == size + 1
                    del present[evicted]
            case "leave" if mine:
                waiting.leave(client, mine[0])
                del present[mine[0]]
            case "serve" if present:
                first = next(iter(waiting))
                assert first == min(
                    (waiter for waiter in present if waiter[0] == first[0]),
                    key=list(present).index,
                )
                waiting.served(first[0], first)
                del present[first]
        assert len(waiting) == len(present)
        assert sorted(waiting) == sorted(present)
    assert sorted(drained(waiting)) == sorted(present)

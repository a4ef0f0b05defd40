from __future__ import annotations

from ollad.affinity import Affinity, Held, Holder

A, B = Holder("a", "1"), Holder("b", "2")


def test_what_was_remembered_is_found() -> None:
    affinity = Affinity()
    affinity.remember(Held.RESPONSE, "", "resp_1", A)
    assert affinity.find(Held.RESPONSE, "", "resp_1") == A
    affinity.remember(Held.RESPONSE, "", "resp_1", B)
    assert affinity.find(Held.RESPONSE, "", "resp_1") == B
    assert len(affinity) == 1


def test_nobody_finds_what_belongs_to_others_or_is_something_else() -> None:
    affinity = Affinity()
    affinity.remember(Held.RESPONSE, "me", "x", A)
    assert affinity.find(Held.RESPONSE, "you", "x") is None
    assert affinity.find(Held.CONVERSATION, "me", "x") is None
    assert affinity.find(Held.RESPONSE, "me", "y") is None


def test_the_least_recently_used_is_forgotten_first() -> None:
    affinity = Affinity(capacity=2)
    affinity.remember(Held.RESPONSE, "", "old", A)
    affinity.remember(Held.RESPONSE, "", "used", A)
    affinity.find(Held.RESPONSE, "", "old")
    affinity.remember(Held.RESPONSE, "", "new", B)
    assert len(affinity) == 2
    assert affinity.find(Held.RESPONSE, "", "used") is None
    assert affinity.find(Held.RESPONSE, "", "old") == A
    assert affinity.find(Held.RESPONSE, "", "new") == B

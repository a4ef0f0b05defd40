from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from ollad.backends.snapshot import Snapshot
from tests.unit.builders import card


def test_nothing_is_known_at_first() -> None:
    snapshot = Snapshot()
    assert not snapshot.state.routable
    assert snapshot.weight == 0.0
    assert snapshot.checked is None
    assert snapshot.model_ids == ()


def test_model_ids_are_those_of_the_cards() -> None:
    assert Snapshot(models=(card("b"), card("a"))).model_ids == ("b", "a")


def test_a_snapshot_does_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        Snapshot().weight = 1.0  # type: ignore[misc]

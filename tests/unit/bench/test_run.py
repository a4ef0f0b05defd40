"""What is measured, and in which order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.bench.peers import PEERS
from tests.bench.run import plan, rotated
from tests.bench.scenarios import SCENARIOS

if TYPE_CHECKING:
    from pathlib import Path


def test_everything_is_measured_unless_told_otherwise() -> None:
    made = plan({})
    assert made.peers == PEERS
    assert made.scenarios == SCENARIOS
    assert made.rounds == 3
    assert made.command == "make bench"


def test_ollad_is_measured_with_whatever_peers_are_chosen() -> None:
    made = plan({"BENCH_PEERS": "haproxy,nginx", "BENCH_SCENARIOS": "E A"})
    assert [peer.name for peer in made.peers] == ["ollad", "nginx", "haproxy"]
    assert [scenario.name for scenario in made.scenarios] == ["E", "A"]


def test_the_page_names_the_choice_that_was_made() -> None:
    assert plan({"BENCH_PEERS": "nginx", "BENCH_OUT": "x.md"}).command == (
        "make bench BENCH_PEERS='nginx'"
    )


def test_another_checkout_of_ollad_is_measured_along(tmp_path: Path) -> None:
    made = plan({"BENCH_OLLAD": f"before={tmp_path}", "BENCH_PEERS": "nginx"})
    assert [peer.name for peer in made.peers] == ["ollad", "nginx", "ollad-before"]
    assert made.peers[-1].folder == tmp_path


@pytest.mark.parametrize("variable", ["BENCH_PEERS", "BENCH_SCENARIOS"])
def test_an_unknown_name_is_refused(variable: str) -> None:
    with pytest.raises(ValueError, match="unknown: apache"):
        plan({variable: "apache"})


def test_no_peer_is_first_in_every_round() -> None:
    firsts = [rotated(PEERS, number)[0] for number in range(len(PEERS))]
    assert [PEERS.index(peer) for peer in firsts] == list(range(len(PEERS)))

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from ollad.routing.popularity import Popularity
from tests.unit.routing.builders import chain_of


@given(
    texts=st.lists(st.text("ab", max_size=6), max_size=40),
    asked=st.text("ab", max_size=8),
    threshold=st.integers(1, 6),
)
def test_a_prefix_is_popular_once_it_was_seen_so_often(
    texts: list[str], asked: str, threshold: int
) -> None:
    popularity = Popularity(threshold)
    for text in texts:
        popularity.see(chain_of(text))
    seen = Counter(text[:end] for text in texts for end in range(1, len(text) + 1))
    expected = sum(seen[asked[:end]] >= threshold for end in range(1, len(asked) + 1))
    assert popularity.popular(chain_of(asked)) == expected


def test_sightings_of_long_ago_do_not_count() -> None:
    popularity = Popularity(3, max_blocks=100)
    for _ in range(3):
        popularity.see(chain_of("hot"))
    assert popularity.popular(chain_of("hot")) == 3
    for number in range(100):
        popularity.see(chain_of(f"{number:03}"))
    assert popularity.popular(chain_of("hot")) == 0


def test_sightings_of_two_generations_count_together() -> None:
    popularity = Popularity(4, max_blocks=20)
    for number in range(4):
        popularity.see(chain_of("hot"))
        popularity.see(chain_of(f"{number:04}"))
    assert popularity.popular(chain_of("hot")) == 3


@given(
    texts=st.lists(st.text("ab", min_size=1, max_size=4), max_size=60),
    threshold=st.integers(1, 4),
)
def test_what_is_not_counted_any_more_would_have_changed_nothing(
    texts: list[str], threshold: int
) -> None:
    """Against counts of every sighting, in generations of half of what may be counted."""
    popularity = Popularity(threshold, max_blocks=12)
    young, old = Counter[int](), Counter[int]()
    for text in texts:
        popularity.see(chain_of(text))
        if 2 * len(young) >= 12:
            young, old = Counter(), young
        young.update(chain_of(text))
        expected = sum(young[block] + old[block] >= threshold for block in chain_of(text))
        assert popularity.popular(chain_of(text)) == expected
        assert len(popularity) == len(young) + len(old)


def test_the_counts_are_bounded() -> None:
    popularity = Popularity(2, max_blocks=100)
    for number in range(5000):
        popularity.see(chain_of(f"{number:05}"))
    assert len(popularity) <= 100 + 2 * 5

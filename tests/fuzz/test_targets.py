"""The short form of ``make fuzz``: the corpus, and some mutations of it, the same each time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CORPUS = Path(__file__).parent / "corpus"
MUTATIONS = 150
TOKENS = (
    *(b"\r\n", b"\n", b"\r", b"\0", b" ", b":", b",", b'"', b"\\", b"{", b"}", b"[", b"]", b"\xff"),
    *(b"chunked", b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"0\r\n\r\n"),
    *(
        b"Connection: close\r\n",
        b"HTTP/1.0",
        b"%2e",
        b"data: ",
        b"- ",
        b": ",
        b"&a",
        b"*a",
        b"<<: ",
    ),
)


def seeds(name: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]


@pytest.fixture(params=TARGETS)
def target(request: pytest.FixtureRequest) -> Iterator[tuple[str, Callable[[bytes], None]]]:
    with TARGETS[request.param]() as check:
        yield request.param, check


@st.composite
def mutations(draw: st.DrawFn, originals: list[bytes]) -> bytes:
    """A seed with a few pieces cut out, doubled or put in."""
    data = draw(st.sampled_from(originals))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        end = draw(st.integers(at, min(len(data), at + 30)))
        piece = draw(st.sampled_from(TOKENS) | st.binary(max_size=4) | st.just(data[at:end] * 2))
        data = data[:at] + piece + data[end:]
    return data


def test_every_target_has_seeds() -> None:
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS)


def test_neither_seeds_nor_their_mutations_find_a_mistake(
    target: tuple[str, Callable[[bytes], None]],
) -> None:
    name, check = target
    originals = seeds(name)
    for data in originals:
        check(data)

    @settings(
        max_examples=MUTATIONS,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(mutations(originals))
    def mutated(data: bytes) -> None:
        check(data)

    mutated()

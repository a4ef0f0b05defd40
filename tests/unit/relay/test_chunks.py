from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ollad.relay.chunks import UNKNOWN, opening, split

CHUNK = b"5\r\nhello\r\n"


@given(size=st.integers(1, 1 << 20))
def test_the_length_of_a_chunk_tells_its_size_line(size: int) -> None:
    line = b"%x\r\n" % size
    assert opening(len(line) + size + 2) == line


def test_some_lengths_no_chunk_has() -> None:
    for length in (0, 1, 5, 21, 0x100 + 2 + 4):
        assert opening(length) == b"", length


@given(pieces=st.lists(st.binary(min_size=1, max_size=40), max_size=6), cut=st.integers(0, 400))
def test_chunks_are_taken_apart_and_what_is_missing_is_counted(
    pieces: list[bytes], cut: int
) -> None:
    chunks = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces]
    whole = b"".join(chunks)
    assert split(whole) == (pieces, 0)
    assert split(b"junk" + whole, 4) == (pieces, 0)
    part = whole[:cut]
    held, missing = split(part)
    assert held == pieces[: len(held)]
    if missing > 0:
        assert len(b"".join(chunks[: len(held) + 1])) == len(part) + missing
    elif missing == 0:
        assert b"".join(chunks[: len(held)]) == part
    else:  # within a size line
        assert len(part) - len(b"".join(chunks[: len(held)])) < 4


def test_what_is_no_further_chunk_is_left_alone() -> None:
    for data in (
        b"0\r\n\r\n",
        b"00\r\n\r\n",
        b"5;a=b\r\nhello\r\n",
        b"5\nhello\n",
        b"g\r\n",
        b"5\r\nhello!!",
        b"+5\r\nhello\r\n",
        b" 5\r\nhello\r\n",
        b"5_0\r\n",
        b"1000000\r\n",
        b"\r\n",
    ):
        assert split(CHUNK + data) == ([b"hello"], UNKNOWN), data

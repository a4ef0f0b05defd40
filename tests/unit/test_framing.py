from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollad.framing import HEAD_END, FamiliarHeads

START = b"POST /generate HTTP/1.1\r\nHost: a\r\n"


def heads(count: int = 8, longest: int = 4096) -> FamiliarHeads[str]:
    return FamiliarHeads(count, longest)


def learn(known: FamiliarHeads[str], head: bytes, what: str = "known") -> None:
    known.learn(head, len(head), lambda: what)


def recall(known: FamiliarHeads[str], head: bytes) -> tuple[str, int | None] | None:
    return known.recall(head, len(head))


def with_length(length: bytes, field: bytes = b"Content-Length: ") -> bytes:
    return START + field + length + b"\r\nAccept: */*\r\n\r\n"


def test_nothing_is_known_at_first() -> None:
    known = heads()
    assert recall(known, START + b"\r\n") is None
    assert recall(known, with_length(b"5")) is None
    assert len(known) == 0


def test_a_head_is_known_by_its_bytes() -> None:
    known = heads()
    learn(known, START + b"\r\n")
    assert recall(known, START + b"\r\n") == ("known", None)
    assert recall(known, START + b"Accept: */*\r\n\r\n") is None
    assert recall(known, START.replace(b"a", b"A") + b"\r\n") is None


@pytest.mark.parametrize(
    "field", [b"Content-Length: ", b"content-length: ", b"Content-length:", b"content-Length:"]
)
def test_a_head_is_known_whatever_length_it_gives(field: bytes) -> None:
    known = heads()
    learn(known, with_length(b"17", field))
    for length in (0, 5, 17, 999_999_999_999):
        assert recall(known, with_length(b"%d" % length, field)) == ("known", length)
    assert len(known) == 1


def test_the_length_may_be_the_last_field_or_the_first() -> None:
    known = heads()
    learn(known, START + b"Content-Length: 5\r\n\r\n", "last")
    learn(known, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nServer: x\r\n\r\n", "first")
    assert recall(known, START + b"Content-Length: 60\r\n\r\n") == ("last", 60)
    reply = b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\nServer: x\r\n\r\n"
    assert recall(known, reply) == ("first", 7)


def test_heads_with_the_field_spelled_in_two_ways_are_two() -> None:
    known = heads()
    learn(known, with_length(b"5"))
    assert recall(known, with_length(b"5", b"content-length: ")) is None
    assert recall(known, with_length(b"5", b"Content-Length:")) is None


def test_what_follows_a_head_is_no_part_of_it() -> None:
    known = heads()
    head = START + b"\r\n"
    known.learn(head + b"Content-Length: 5\r\n\r\n", len(head), lambda: "known")
    assert recall(known, head) == ("known", None)
    assert known.recall(head + b"\r\nContent-Length: 7\r\n", len(head)) == ("known", None)
    known.learn(with_length(b"3") + b"abc", len(with_length(b"3")), lambda: "sized")
    sized = with_length(b"12")
    assert known.recall(sized + b"\r\nContent-Length: 7\r\n", len(sized)) == ("sized", 12)


UNKNOWN_SPELLINGS = [
    b"CONTENT-LENGTH: 5",
    b"content-LENGTH: 5",
    b"Content-Length:  5",
    b"Content-Length:\t5",
    b"Content-Length: 5 ",
    b"Content-Length: 05",
    b"Content-Length: 00",
    b"Content-Length: +5",
    b"Content-Length: -5",
    b"Content-Length: 0x5",
    b"Content-Length: 5,5",
    b"Content-Length: 1000000000000",
]


@pytest.mark.parametrize("field", UNKNOWN_SPELLINGS)
def test_a_length_in_any_other_spelling_is_not_taken_for_one_that_is_known(field: bytes) -> None:
    known = heads()
    for spelled in (b"Content-Length: ", b"content-length: ", b"Content-Length:"):
        learn(known, with_length(b"5", spelled))
    assert recall(known, with_length(b"", field)) is None


@pytest.mark.parametrize("field", UNKNOWN_SPELLINGS)
def test_a_head_with_the_length_in_any_other_spelling_is_never_familiar(field: bytes) -> None:
    known = heads()
    learn(known, with_length(b"", field))
    assert recall(known, with_length(b"", field)) is None


@pytest.mark.parametrize("field", [b"Content-Length: ", b"content-length:"])
def test_an_empty_length_is_not_taken_for_one_that_is_known(field: bytes) -> None:
    known = heads()
    learn(known, with_length(b"5", field))
    assert recall(known, with_length(b"", field)) is None


def test_what_is_known_is_made_only_of_heads_that_are_remembered() -> None:
    known = heads(longest=len(START) + 2)
    made: list[str] = []

    def make() -> str:
        made.append("made")
        return "known"

    for head in (START + b"X: y\r\n\r\n", with_length(b"5")):
        known.learn(head, len(head), make)
        assert recall(known, head) is None
    assert (made, len(known)) == ([], 0)
    known.learn(START + b"\r\n", len(START) + 2, make)
    assert recall(known, START + b"\r\n") == ("known", None)
    assert (made, len(known)) == (["made"], 1)


def test_the_head_that_was_learnt_first_goes_first() -> None:
    known = heads(count=3)
    names = [b"GET /%d HTTP/1.1\r\n\r\n" % number for number in range(5)]
    for place, head in enumerate(names):
        learn(known, head, str(place))
        recall(known, names[0])  # that it was asked for keeps none
    assert [recall(known, head) for head in names] == [
        None,
        None,
        ("2", None),
        ("3", None),
        ("4", None),
    ]


@given(st.lists(st.integers(0, 20), max_size=60), st.integers(1, 6))
def test_no_more_heads_are_remembered_than_asked_for(numbers: list[int], count: int) -> None:
    known = heads(count=count)
    for number in numbers:
        head = b"GET /%d HTTP/1.1\r\n\r\n" % number
        learn(known, head, str(number))
        assert recall(known, head) == (str(number), None)
        assert len(known) <= count


FIELDS = st.sampled_from(
    [
        b"Host: a",
        b"Host: b",
        b"X: Content-Length: 5",
        b"X-Content-Length: 5",
        b"X-Content-Length: 6",
        b"Transfer-Encoding: chunked",
        b"",
    ]
)
LENGTHS = st.one_of(
    st.none(),
    st.builds(
        bytes.__add__,
        st.sampled_from([b"Content-Length: ", b"content-length: ", b"Content-Length:"]),
        st.integers(0, 10**14).map(lambda length: b"%d" % length),
    ),
    st.sampled_from(UNKNOWN_SPELLINGS),
)
SPELLED = re.compile(rb"([Cc]ontent-[Ll]ength: ?)(0|[1-9][0-9]{0,11})")


@st.composite
def whole_heads(draw: st.DrawFn) -> bytes:
    """A head with at most one length, as no other is ever taken."""
    lines = [draw(st.sampled_from([b"HTTP/1.1 200 OK", b"Content-Length: 5"]))]
    lines += [line for line in draw(st.lists(FIELDS, max_size=3)) if line]
    length = draw(LENGTHS)
    if length is not None:
        lines.insert(draw(st.integers(1, len(lines))), length)
    return b"\r\n".join(lines) + HEAD_END


def differ_in_digits_only(one: bytes, other: bytes) -> bool:
    """Whether two heads are the same but for the digits of ``Content-Length``, if for those."""
    ours, theirs = one.split(b"\r\n"), other.split(b"\r\n")
    if len(ours) != len(theirs) or ours[0] != theirs[0]:
        return False
    for mine, its in zip(ours[1:], theirs[1:], strict=True):
        found, met = SPELLED.fullmatch(mine), SPELLED.fullmatch(its)
        if mine != its and (found is None or met is None or found[1] != met[1]):
            return False
    return True


@given(whole_heads(), whole_heads() | st.binary(max_size=80).map(lambda data: data + HEAD_END))
def test_heads_that_differ_in_anything_but_the_length_are_never_taken_for_one_another(
    one: bytes, other: bytes
) -> None:
    known = heads()
    learn(known, one)
    assert recall(known, other) is None or differ_in_digits_only(one, other)


@given(whole_heads(), st.data())
def test_one_byte_more_less_or_other_makes_another_head(head: bytes, data: st.DataObject) -> None:
    known = heads()
    learn(known, head)
    at = data.draw(st.integers(0, len(head) - 1))
    byte = data.draw(st.binary(max_size=1))
    other = head[:at] + byte + head[at + data.draw(st.integers(0, 1)) :]
    emptied = re.search(rb"(?i)\r\ncontent-length: ?\r\n", other) is not None
    if not emptied:  # that one has a test of its own
        assert recall(known, other) is None or differ_in_digits_only(head, other)


@given(whole_heads(), st.integers(0, 999_999_999_999))
def test_a_length_that_is_known_is_read_to_its_last_digit(head: bytes, length: int) -> None:
    known = heads()
    line = re.search(rb"\r\n[Cc]ontent-[Ll]ength: ?(0|[1-9][0-9]{0,11})\r\n", head)
    if line is None:
        return
    learn(known, head)
    other = head[: line.start(1)] + b"%d" % length + head[line.end(1) :]
    assert recall(known, other) == ("known", length)

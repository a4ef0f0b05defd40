"""Documents without the middle of their long texts: read as rightly as the whole."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import ollad.excerpt
from ollad.excerpt import LONG, read_excerpt
from ollad.routing.prompt import PromptReader

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

WORDS = 'He said: "Hello, Wörld!"\n\\ 你好 \U0001f600 '
TEXT = WORDS * (LONG // len(WORDS))


def chat(*contents: object, **members: object) -> dict[str, Any]:
    said = [{"role": "user", "content": content} for content in contents]
    return {"model": "m", "messages": said, **members}


@pytest.mark.parametrize("ascii_only", [False, True])
@pytest.mark.parametrize(
    "text", [TEXT, "x" * 2 * LONG, "\\" * LONG, '"' * LONG, "\U0001f600" * LONG]
)
def test_a_long_chat_is_read_without_the_middle_of_its_texts(text: str, ascii_only: bool) -> None:
    document = chat("Hi.", text, temperature=0.5, stream=True)
    body = json.dumps(document, ensure_ascii=ascii_only).encode()
    found = read_excerpt(body)
    if found is None:  # there is no place where to cut for certain
        assert set(text) <= set('\\"')
        return
    kept = found.document["messages"][1].pop("content")
    beginning, _, end = kept.partition("zz")
    assert text.startswith(beginning)
    assert text.endswith(end)
    assert len(beginning) > 100_000
    shortened = {
        **document,
        "messages": [document["messages"][0], {"role": "user", "content": kept}],
    }
    length = len(json.dumps(shortened, ensure_ascii=ascii_only).encode())
    assert length < LONG
    assert found.omitted == len(body) - length
    del document["messages"][1]["content"]
    assert found.document == document


def test_a_prompt_and_the_data_of_an_image_are_cut_too() -> None:
    found = read_excerpt(orjson.dumps({"model": "m", "prompt": TEXT}))
    assert found is not None
    assert TEXT.startswith(found.document["prompt"].partition("zz")[0])
    url = "data:image/png;base64," + "iVBO" * LONG
    parts = [
        {"type": "text", "text": "What is it?"},
        {"type": "image_url", "image_url": {"url": url}},
    ]
    found = read_excerpt(orjson.dumps(chat(parts)))
    assert found is not None
    assert found.omitted == 0
    assert found.document["messages"][0]["content"][0] == parts[0]


@pytest.mark.parametrize(
    "document",
    [
        chat("short"),
        {"text": TEXT},
        {"requests": [{"text": TEXT}]},
        {"prompt": [TEXT]},
        {"input": TEXT},
        chat("Hi.", rid=TEXT),
        chat("Hi.", tools=[{"content": TEXT}]),
        chat([{"type": "image_url", "image_url": {"url": "iVBO" * LONG}}]),
        chat([{"type": "input_audio", "input_audio": {"data": "iVBO" * LONG}}]),
        chat([{"type": "text", "text": TEXT, "image_data": "iVBO" * LONG}]),
        {"messages": [{TEXT + "a" + TEXT: 1, TEXT + "b" + TEXT: 2}]},
        {TEXT + "a" + TEXT: 1, TEXT + "b" + TEXT: 2},
        {"input_ids": [1234] * LONG},
        [TEXT],
    ],
)
def test_texts_that_somebody_reads_to_their_end_are_not_cut(document: Mapping[str, Any]) -> None:
    assert read_excerpt(orjson.dumps(document)) is None


@pytest.mark.parametrize(
    "bad", [b"\n", b"\0", b"\xff", b"\\x", b"\\ud800", b'"', b"\\u12", b'", a', b'"}]}']
)
def test_what_is_no_json_in_the_middle_is_not_read(bad: bytes) -> None:
    body = orjson.dumps(chat(TEXT, "-"))
    place = body.index(b"He said", len(body) // 2)
    spoilt = body[:place] + bad + body[place:]
    with pytest.raises(orjson.JSONDecodeError):
        orjson.loads(spoilt)
    assert read_excerpt(spoilt) is None


def test_each_byte_in_the_middle_of_plain_text_is_judged_as_by_a_parser() -> None:
    body = orjson.dumps(chat("x" * 2 * LONG))
    for byte in range(256):
        place = LONG + 8191 * byte  # ever another place within what is looked at together
        other = body[:place] + bytes([byte]) + body[place + 1 :]
        try:
            orjson.loads(other)
        except orjson.JSONDecodeError:
            assert read_excerpt(other) is None, byte
        else:
            assert read_excerpt(other) is not None, byte


def test_what_is_no_text_is_not_left_out() -> None:
    for middle in (b" " * 2 * LONG, b"1" * 2 * LONG, b"tr" + b"u" * 2 * LONG + b"e"):
        assert read_excerpt(b'{"messages": [], "a": %b}' % middle) is None


def same_but_for_cuts(cut: Any, whole: Any) -> bool:
    """Whether two values are the same where nothing was left out."""
    match cut, whole:
        case str(), str():
            begins, mark, ends = cut.rpartition("zz")
            while mark and not whole.startswith(begins):
                begins, mark, more = begins.rpartition("zz")
                ends = more + "zz" + ends
            return cut == whole or (bool(mark) and whole.endswith(ends))
        case dict(), dict():
            return list(cut) == list(whole) and all(
                same_but_for_cuts(cut[name], whole[name]) for name in cut
            )
        case list(), list():
            return len(cut) == len(whole) and all(map(same_but_for_cuts, cut, whole))
        case _:
            return bool(cut == whole)


TEXTS = st.lists(
    st.sampled_from(
        ["\\", '"', "ab", "é", "你", "\U0001f600", "\n", ", ", "{", "]", ":", " " * 9, "w" * 40]
    )
).map("".join)
CHATS = st.builds(
    lambda contents, more: chat(*contents, **more),
    st.lists(TEXTS, max_size=3),
    st.dictionaries(st.sampled_from(["prompt", "user", "n"]), TEXTS | st.integers(), max_size=2),
)


@settings(max_examples=600)
@given(
    CHATS,
    st.booleans(),
    st.lists(st.tuples(st.integers(0, 999), st.binary(max_size=3)), max_size=2),
)
@example(chat('\\"' * 99), False, [])
def test_an_excerpt_is_of_a_valid_document_and_says_the_same(
    document: Any, ascii_only: bool, edits: list[tuple[int, bytes]]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("_PIECE", 16), ("_TRIES", 12), ("_BEGINNING", 24), ("_SHORTEST", 400)):
            patch.setattr(ollad.excerpt, name, value)
        body = json.dumps(document, ensure_ascii=ascii_only).encode()
        for place, put in edits:
            at = place % (len(body) + 1)
            body = body[:at] + put + body[at + len(put) :]
        found = read_excerpt(body)
    if found is not None:
        assert same_but_for_cuts(found.document, orjson.loads(body))


@pytest.mark.parametrize("text", [TEXT, "word " * LONG, "你好" * LONG])
@pytest.mark.parametrize(
    ("target", "document"),
    [
        ("/v1/chat/completions", lambda text: chat("Hi.", text, "So?")),
        ("/v1/completions", lambda text: {"prompt": text}),
    ],
)
def test_routing_reads_the_same_in_it(
    text: str, target: str, document: Callable[[str], dict[str, Any]]
) -> None:
    body = orjson.dumps(document(text))
    found = read_excerpt(body)
    assert found is not None
    reader = PromptReader(512)
    whole = reader.read(target, document(text), model="m", size=len(body)).demand
    cut, omitted = found
    demand = reader.read(target, cut, model="m", size=len(body), omitted=omitted).demand
    assert demand.chain == whole.chain
    assert demand.tokens == pytest.approx(whole.tokens, rel=0.2)

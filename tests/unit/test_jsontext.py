from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ollad.errors import BadRequestError
from ollad.jsontext import (
    MAX_DEPTH,
    append_members,
    load_object,
    parse_object,
    refuse_nesting,
    replace_members,
)

SPACES = st.text(" \t\r\n", max_size=3)
NAMES = st.sampled_from(["rid", "model", "a", "", 'r"id', "\\", "naïve", "ri"]) | st.text(
    st.characters(exclude_categories=["Cs"]), max_size=5
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
    | st.sampled_from(['{"rid":1}', '\\"}', "[", "]}", '"rid":"x"']),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["rid", "x", '"', "}"]), inner, max_size=3)
    ),
    max_leaves=12,
)


def escaped(name: str) -> str:
    return '"' + "".join(f"\\u{unit:04x}" for unit in utf16(name)) + '"'


def utf16(text: str) -> list[int]:
    raw = text.encode("utf-16-be")
    return [int.from_bytes(raw[i : i + 2], "big") for i in range(0, len(raw), 2)]


@st.composite
def objects(draw: st.DrawFn) -> tuple[list[str], list[str], list[tuple[str, Any]]]:
    """The texts between the values, the texts of the values, and the members."""
    members = draw(st.lists(st.tuples(NAMES, VALUES), max_size=6))
    between, texts = [draw(SPACES) + "{"], []
    for index, (name, value) in enumerate(members):
        style = draw(st.integers(0, 2))
        key = escaped(name) if style == 2 else json.dumps(name, ensure_ascii=style == 1)
        between[-1] += (
            ("," if index else "") + draw(SPACES) + key + draw(SPACES) + ":" + draw(SPACES)
        )
        texts.append(
            json.dumps(value, ensure_ascii=draw(st.booleans()), indent=draw(st.none() | st.just(1)))
        )
        between.append(draw(SPACES))
    between[-1] += draw(SPACES) + "}" + draw(SPACES)
    return between, texts, members


def join(between: list[str], texts: list[str]) -> bytes:
    pieces = [between[0]]
    for text, gap in zip(texts, between[1:], strict=True):
        pieces += (text, gap)
    return "".join(pieces).encode()


@given(objects(), st.dictionaries(NAMES, VALUES, max_size=3))
def test_replacing_changes_the_named_values_and_no_other_byte(
    parts: tuple[list[str], list[str], list[tuple[str, Any]]], values: dict[str, Any]
) -> None:
    between, texts, members = parts
    replacements = {name: json.dumps(value) for name, value in values.items()}
    expected = [
        replacements.get(name, text) for (name, _), text in zip(members, texts, strict=True)
    ]
    edited = replace_members(
        join(between, texts), {name: text.encode() for name, text in replacements.items()}
    )
    assert edited == join(between, expected)


@given(objects(), st.dictionaries(NAMES, VALUES, min_size=1, max_size=3))
def test_appending_keeps_every_byte_and_adds_the_members(
    parts: tuple[list[str], list[str], list[tuple[str, Any]]], values: dict[str, Any]
) -> None:
    between, texts, members = parts
    body = join(between, texts)
    edited = append_members(body, {name: orjson.dumps(value) for name, value in values.items()})
    brace = body.rindex(b"}")
    assert edited.startswith(body[:brace])
    assert edited.endswith(body[brace:])
    assert json.loads(edited) == {**dict(members), **values}
    assert parse_object(edited) == {**dict(members), **values}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"{}", b'{"m":1}'),
        (b" {\n} \n", b' {\n"m":1} \n'),
        (b'{"a":"{"}', b'{"a":"{","m":1}'),
        (b'{"a":{}}', b'{"a":{},"m":1}'),
        (b'{"a":1 }', b'{"a":1 ,"m":1}'),
    ],
)
def test_members_are_spliced_before_the_closing_brace(body: bytes, expected: bytes) -> None:
    assert append_members(body, {"m": b"1"}) == expected
    assert append_members(body, {}) == body


def test_a_name_written_with_escapes_is_replaced_too() -> None:
    body = rb'{"r\u0069d":"mine", "rid" : ["a"], "x":{"rid":1}}'
    assert replace_members(body, {"rid": b'"new"'}) == (
        rb'{"r\u0069d":"new", "rid" : "new", "x":{"rid":1}}'
    )


def test_a_body_without_the_member_is_returned_as_it_is() -> None:
    body = b'{"text":"\\"rid\\":1","n":[{"rid":2}]}'
    assert replace_members(body, {"rid": b"0"}) is body


def test_a_megabyte_of_escapes_is_edited() -> None:
    text = '\\"\n{' * 200_000
    body = orjson.dumps({"text": text, "ids": list(range(50_000)), "rid": "x"})
    assert orjson.loads(replace_members(body, {"rid": b'"y"'}))["rid"] == "y"


@pytest.mark.parametrize("body", [b'{"a":[1', b'{"a":"x', b'{"a":,}'])
def test_editing_text_that_is_no_object_is_an_error(body: bytes) -> None:
    with pytest.raises(ValueError, match="not a valid JSON object"):
        replace_members(body, {"b": b"1"})


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b'{"a":\n\n  nope}', "not valid JSON.*line 3, column 3"),
        (b'{"a":1', "not valid JSON.*line 1"),
        (b'{"a":NaN}', "not valid JSON"),
        (b'{"a":"\xff"}', "not UTF-8: invalid at byte 6"),
        (b"\xef\xbb\xbf{}", "BOM"),
        (b"[]", "not an array"),
        (b'"text"', "not a string"),
        (b"12", "not a number"),
        (b"1.5", "not a number"),
        (b"true", "not a boolean"),
        (b"null", "not null"),
        (b"[" * 100_000, "nested deeper than 200 levels"),
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, "nested deeper than 200 levels"),
        (b'{"a":' * 201 + b"1" + b"}" * 201, "nested deeper than 200 levels"),
        (b'{"a":' + b"[" * 200 + b"]" * 200 + b"}", "nested deeper than 200 levels"),
    ],
)
def test_a_body_that_is_no_object_is_refused_with_the_reason(body: bytes, message: str) -> None:
    with pytest.raises(BadRequestError, match=message):
        parse_object(body)


def test_nesting_up_to_the_limit_is_taken() -> None:
    body = b'{"a":' + b"[" * (MAX_DEPTH - 1) + b"]" * (MAX_DEPTH - 1) + b"}"
    assert "a" in parse_object(body)


def test_many_shallow_containers_are_taken() -> None:
    assert len(parse_object(orjson.dumps({"messages": [{"c": []}] * 1000}))["messages"]) == 1000


def depth_of(value: Any) -> int:
    """Levels of objects and arrays."""
    match value:
        case dict():
            return 1 + max(map(depth_of, value.values()), default=0)
        case list():
            return 1 + max(map(depth_of, value), default=0)
        case _:
            return 0


@st.composite
def nested(draw: st.DrawFn) -> Any:
    """An object about as deep as may be, of objects and arrays that have company, or not."""
    levels = draw(st.integers(MAX_DEPTH - 5, MAX_DEPTH + 5))
    company = draw(st.lists(st.sampled_from([1, "]}", [], {}, [{"x": []}]]), max_size=2))
    turn = draw(st.integers(1, 7))
    value: Any = draw(st.sampled_from([1, "[[{{", [], {}]))
    for level in range(levels - depth_of(value) - 1):
        beside = company if level % 5 == 4 else []
        if level % turn:
            value = {**{str(at): other for at, other in enumerate(beside)}, "a": value}
        else:
            value = [*beside, value]
    rest = {"messages": [{"role": "user", "content": "x" * draw(st.sampled_from([0, 20_000]))}]}
    return {"a": value, **rest} if draw(st.booleans()) else {**rest, "a": value}


@given(nested(), st.none() | st.just(1))
def test_what_is_nested_too_deep_is_refused_and_nothing_else(
    document: Any, indent: int | None
) -> None:
    body = json.dumps(document, indent=indent).encode()
    if depth_of(document) > MAX_DEPTH:
        with pytest.raises(BadRequestError, match="nested deeper than 200 levels"):
            parse_object(body)
        with pytest.raises(BadRequestError, match="nested deeper than 200 levels"):
            refuse_nesting(body, load_object(body))
    else:
        assert parse_object(body) == load_object(body) == document
        refuse_nesting(body, document)


@given(
    st.lists(st.booleans(), min_size=MAX_DEPTH - 1, max_size=MAX_DEPTH),
    st.sampled_from([b"", b" " * 20_000]),
)
@example([False] * MAX_DEPTH, b"")
@example([False] * (MAX_DEPTH - 1), b"")
def test_the_shortest_text_of_any_depth_is_judged_rightly(kinds: list[bool], pad: bytes) -> None:
    inner = b"".join(b'{"":' if is_object else b"[" for is_object in kinds)
    ends = b"".join(b"}" if is_object else b"]" for is_object in reversed(kinds))
    body = b'{"":' + inner + (b"0" if kinds[-1] else b"") + ends + pad + b"}"
    if len(kinds) == MAX_DEPTH:
        with pytest.raises(BadRequestError, match="nested deeper than 200 levels"):
            parse_object(body)
    else:
        parse_object(body)

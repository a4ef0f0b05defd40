"""Requests in which nothing has to be looked into."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ollad.config.schema import Media
from ollad.jsontext import refuse_nesting
from ollad.sglang.media import check_media
from ollad.sglang.parameters import (
    IGNORED_PARAMETERS,
    REFUSED_FIELDS,
    ignored_parameters,
    refuse_fields,
    replace_rid,
)
from ollad.sglang.plain import is_plain

if TYPE_CHECKING:
    from collections.abc import Mapping

CHAT: Mapping[str, Any] = {
    "model": "m",
    "messages": [{"role": "system", "content": "x"}, {"role": "user", "content": "x" * 500}],
    "temperature": 0.7,
    "stream": True,
    "stop": None,
}
NAMES = st.sampled_from(
    [
        *("model", "messages", "stop", "rid", "image_url", "role", "content", "tools"),
        *("session_id", "max_tree_depth", "input_ids", "return_hidden_states"),
    ]
)
LEAVES = st.sampled_from(["file:///etc/passwd", "user", "", None, 1, 0.5, False])
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)
MESSAGES = st.lists(
    st.fixed_dictionaries({"role": LEAVES | VALUES, "content": LEAVES}) | VALUES, max_size=3
)


def test_most_requests_are_plain() -> None:
    assert is_plain(CHAT)
    assert is_plain({"text": "x", "sampling_temperature": 0.5})
    assert is_plain({})


@pytest.mark.parametrize("name", [*REFUSED_FIELDS, *IGNORED_PARAMETERS, "rid", "image_data"])
def test_what_has_to_be_looked_at_is_not_plain(name: str) -> None:
    assert not is_plain({**CHAT, name: None})


@pytest.mark.parametrize("more", [{"tools": []}, {"messages": [{"content": []}]}])
def test_what_may_hold_anything_is_not_plain(more: dict[str, Any]) -> None:
    assert not is_plain({**CHAT, **more})


@settings(max_examples=1000)
@given(
    st.dictionaries(NAMES, LEAVES | VALUES, max_size=4)
    | st.builds(
        lambda rest, messages: {**rest, "messages": messages},
        st.dictionaries(NAMES, LEAVES | VALUES, max_size=2),
        MESSAGES,
    )
)
def test_in_a_plain_request_nothing_is_found(document: dict[str, Any]) -> None:
    if is_plain(document):
        body = orjson.dumps(document)
        refuse_nesting(body + b" " * 1000, document)
        refuse_fields(document)
        assert ignored_parameters(document) == ()
        assert check_media(document, Media(allow_data=False)) == 0
        assert replace_rid(body, document, lambda: "0" * 32) == (body, None)


def test_a_deep_request_is_never_plain() -> None:
    deep: Any = "x"
    for _ in range(300):
        deep = [deep]
    assert not is_plain({"messages": deep})
    assert not is_plain({"messages": [{"role": "user", "content": deep}]})
    assert not is_plain({"stop": deep})

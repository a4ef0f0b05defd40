from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollad.routing import canonical
from ollad.routing.canonical import answer_text, plain_prompt, stand_in

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "text", "role", "content", "x"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)
WEIRD = st.dictionaries(
    st.sampled_from(["messages", "tools", "system", "input", "instructions", "tool_choice"]), JSON
)


def chat_text(document: dict[str, Any]) -> str:
    return "".join(canonical.chat_text(document))


def messages_text(document: dict[str, Any]) -> str:
    return "".join(canonical.messages_text(document))


def responses_text(document: dict[str, Any]) -> str:
    return "".join(canonical.responses_text(document))


def image(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def said(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


SYSTEM, QUESTION = said("system", "Be brief."), said("user", "What is a radix tree?")
ANSWER = said("assistant", "A compressed trie.")


@given(messages=st.lists(st.builds(said, st.text(max_size=3), JSON), max_size=5))
def test_a_conversation_grows_at_its_end(messages: list[dict[str, Any]]) -> None:
    whole = chat_text({"messages": messages})
    for count in range(len(messages)):
        assert whole.startswith(chat_text({"messages": messages[:count]}))


@given(document=WEIRD)
def test_whatever_stands_in_a_request_is_written_somehow(document: dict[str, Any]) -> None:
    for write in (chat_text, messages_text, responses_text):
        assert isinstance(write(document), str)


def test_what_an_answer_adds_is_what_the_next_request_repeats() -> None:
    before = chat_text({"messages": [SYSTEM, QUESTION]})
    reply = {**ANSWER, "tool_calls": None, "reasoning_content": "Hm.", "refusal": None}
    after = chat_text({"messages": [SYSTEM, QUESTION, ANSWER]})
    assert before + answer_text(reply) == after


def test_text_is_added_as_it_is() -> None:
    assert answer_text(" and so on") == " and so on"


@pytest.mark.parametrize(
    "other",
    [
        [said("user", "Be brief."), QUESTION],
        [SYSTEM, said("user", "What is a trie?")],
        [SYSTEM, said("user", "What is a radix tree?", name="Ada")],
        [SYSTEM, said("user", [{"type": "text", "text": "What is a radix tree?"}, image("x")])],
        [SYSTEM, {**QUESTION, "tool_calls": [{"id": "1"}]}],
        [QUESTION, SYSTEM],
    ],
)
def test_what_the_model_would_see_differently_is_written_differently(other: list[Any]) -> None:
    assert chat_text({"messages": [SYSTEM, QUESTION]}) != chat_text({"messages": other})


def test_text_in_parts_is_text() -> None:
    parts = said("user", [{"type": "text", "text": "What is "}, {"type": "text", "text": "that?"}])
    whole = chat_text({"messages": [said("user", "What is that?")]})
    assert chat_text({"messages": [parts]}) == whole


def test_tools_come_first_unless_they_are_not_to_be_used() -> None:
    document = {"messages": [QUESTION]}
    tools = {"tools": [{"type": "function", "function": {"name": "look"}}]}
    with_tools = chat_text({**document, **tools})
    assert with_tools.index("look") < with_tools.index("radix")
    assert chat_text({**document, **tools, "tool_choice": "none"}) == chat_text(document)


def test_an_image_is_known_by_its_data_and_weighs_like_text() -> None:
    data = "data:image/png;base64," + "A" * 100_000
    same = stand_in(image(data))
    assert same == stand_in(image("".join([*data])))
    assert same != stand_in(image(data + "B"))
    assert 3000 < len(same) <= 4096
    assert "AAAA" not in chat_text({"messages": [said("user", [image(data)])]})


def test_the_apis_write_the_same_conversation_alike() -> None:
    chat = chat_text({"messages": [SYSTEM, QUESTION]})
    assert messages_text({"system": "Be brief.", "messages": [QUESTION]}) == chat
    assert responses_text({"instructions": "Be brief.", "input": [QUESTION]}) == chat
    assert responses_text({"instructions": "Be brief.", "input": QUESTION["content"]}) == chat
    tools = {"tools": [{"name": "look"}]}
    for write in (messages_text, responses_text):
        assert "look" in write({**tools, "messages": []})


@pytest.mark.parametrize(
    ("given_", "first", "count"),
    [
        ("text", "text", 1),
        (["one", "two"], "one", 2),
        ([1, 2, 3], [1, 2, 3], 1),
        ([[1, 2], [3]], [1, 2], 2),
        (None, "", 1),
        ([], "", 1),
        ({"text": 1}, "", 1),
    ],
)
def test_the_first_of_several_prompts_speaks_for_all(
    given_: object, first: Any, count: int
) -> None:
    assert plain_prompt(given_) == (first, count)

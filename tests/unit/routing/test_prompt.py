from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollad.routing.demand import span
from ollad.routing.prompt import PromptReader

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ollad.routing.prompt import Prompt

CHAT, GENERATE, COMPLETIONS = "/v1/chat/completions", "/generate", "/v1/completions"
TEXT = "".join(f"{number} bottles of beer on the wall. " for number in range(4000))


def read(
    target: str, *, model: str | None = "m", size: int = 0, block: int = 128, **document: Any
) -> Prompt:
    return PromptReader(block).read(target, document, model=model, size=size)


def chain(target: str = GENERATE, **document: Any) -> tuple[int, ...]:
    return read(target, **document).demand.chain


def conversation(*texts: str) -> list[dict[str, str]]:
    return [
        {"role": "user" if number % 2 == 0 else "assistant", "content": text}
        for number, text in enumerate(texts)
    ]


def same_beginning(one: Sequence[int], other: Sequence[int]) -> int:
    count = 0
    while count < min(len(one), len(other)) and one[count] == other[count]:
        count += 1
    return count


@given(
    stem=st.integers(0, 60_000),
    one=st.text(min_size=1, max_size=400),
    other=st.text(min_size=1, max_size=400),
    block=st.sampled_from([16, 128]),
)
def test_blocks_are_shared_as_far_as_text_is_and_no_further(
    stem: int, one: str, other: str, block: int
) -> None:
    first, second = ((TEXT[:stem] + end).encode() for end in (one, other))
    chains = [chain(GENERATE, text=text.decode(), block=block) for text in (first, second)]
    shared = same_beginning(first, second)
    blocks = 0
    while span(blocks + 1, 32) * block <= shared:
        blocks += 1
    assert same_beginning(*chains) == blocks
    for hashes in chains:
        assert len(set(hashes)) == len(hashes)


@given(cut=st.integers(0, 40_000), block=st.sampled_from([16, 100, 128]))
def test_a_longer_prompt_begins_with_the_blocks_of_a_shorter_one(cut: int, block: int) -> None:
    whole = chain(text=TEXT[:40_000], block=block)
    part = chain(text=TEXT[:cut], block=block)
    assert whole[: len(part)] == part


@given(cut=st.integers(0, 60_000), answer=st.integers(0, 60_000))
def test_an_answer_continues_the_chain_as_if_it_had_been_asked(cut: int, answer: int) -> None:
    prompt = read(GENERATE, text=TEXT[:cut])
    assert prompt.demand.chain + prompt.answer(TEXT[cut : cut + answer]) == chain(
        text=TEXT[: cut + answer]
    )


def test_the_answer_of_a_chat_continues_its_chain() -> None:
    asked = conversation("a" * 300, "b" * 300, "c" * 300)
    prompt = read(CHAT, messages=asked)
    answer = {"role": "assistant", "content": "d" * 1000, "tool_calls": None}
    following = chain(CHAT, messages=[*asked, {"role": "assistant", "content": "d" * 1000}])
    assert prompt.demand.chain + prompt.answer(answer) == following
    assert len(following) > len(prompt.demand.chain) + 5


def test_a_long_prompt_has_few_blocks() -> None:
    demand = read(GENERATE, text="x" * (1 << 20)).demand
    assert len(demand.chain) < 300
    assert demand.prefix_tokens(len(demand.chain)) == demand.tokens == 1 << 18


def test_blocks_cover_the_prompt_but_for_less_than_the_next_one() -> None:
    for length in (127, 128, 129, 8191, 8192, 8447, 8448, 50_000):
        demand = read(GENERATE, text="x" * length).demand
        covered = demand.prefix_tokens(len(demand.chain))
        assert covered <= demand.tokens
        assert demand.tokens - covered < max(32, 0.05 * demand.tokens)
        assert demand.block_tokens == 32


@pytest.mark.parametrize(
    "other",
    [
        {"model": "n"},
        {"model": None},
        {"lora_path": "adapter"},
        {"cache_salt": "tenant"},
        {"extra_key": "tenant"},
        {"image_data": ["data:image/png;base64,AAAA"]},
    ],
)
def test_prompts_that_share_no_cache_share_no_block(other: dict[str, Any]) -> None:
    mine, others = chain(text=TEXT[:1000]), chain(**{"text": TEXT[:1000], **other})
    assert same_beginning(mine, others) == 0


def test_kinds_of_prompts_share_no_block_but_text_is_text() -> None:
    text = TEXT[:1000]
    assert chain(COMPLETIONS, prompt=text) == chain(GENERATE, text=text)
    assert same_beginning(chain(CHAT, messages=conversation(text)), chain(text=text)) == 0


def test_equal_images_share_blocks() -> None:
    def asked(data: str) -> tuple[int, ...]:
        return chain(text=TEXT[:1000], image_data=data)

    assert asked("data:,a") == asked("data:,a")
    assert same_beginning(asked("data:,a"), asked("data:,b")) == 0


@given(ids=st.lists(st.integers(0, 200_000), min_size=1, max_size=500), cut=st.integers(0, 500))
def test_token_ids_are_tokens(ids: list[int], cut: int) -> None:
    whole = read(GENERATE, input_ids=ids).demand
    part = chain(input_ids=ids[:cut])
    assert whole.tokens == len(ids)
    assert whole.chain[: len(part)] == part
    assert whole.prefix_tokens(len(whole.chain)) <= len(ids)


def test_a_token_is_not_taken_for_the_beginning_of_another() -> None:
    short = "[1000,"
    assert chain(input_ids=[1000], block=len(short)) != chain(input_ids=[10001], block=len(short))


def test_several_prompts_weigh_as_many() -> None:
    one = read(COMPLETIONS, prompt=TEXT[:1000]).demand
    three = read(COMPLETIONS, prompt=[TEXT[:1000]] * 3).demand
    assert (three.chain, three.tokens) == (one.chain, 3 * one.tokens)


@pytest.mark.parametrize("prompt", [None, "", [], {}, 7, True, [None], [[]], [{}], [1.5, "a"]])
def test_a_prompt_of_an_odd_shape_is_read_somehow(prompt: object) -> None:
    for target, field in ((GENERATE, "text"), (GENERATE, "input_ids"), (COMPLETIONS, "prompt")):
        assert len(chain(target, **{field: prompt, "lora_path": prompt, "cache_salt": []})) < 2


def test_embeddings_are_work_but_no_prefix() -> None:
    demand = read("/v1/embeddings", size=4000, input="x").demand
    assert (demand.chain, demand.tokens) == ((), 1000)


def test_what_needs_no_prefill_asks_for_nothing() -> None:
    demand = read("/tokenize", size=4000, prompt="x").demand
    assert (demand.chain, demand.tokens) == ((), 0)
    assert read("/tokenize", size=4000, prompt="x").answer("y" * 1000) == ()


def test_only_a_stream_speaks_before_its_end() -> None:
    assert read(CHAT, messages=[]).demand.silent
    assert not read(CHAT, messages=[], stream=True).demand.silent


def test_a_prompt_is_hashed_up_to_a_bound() -> None:
    longest = 1 << 20
    whole = read(GENERATE, text="x" * (longest + (1 << 20)), block=4096).demand
    assert len(whole.chain) == len(chain(text="x" * longest, block=4096))
    assert whole.tokens == (longest + (1 << 20)) / 4
    assert whole.block_tokens == 1024
    assert read(GENERATE, text="x" * longest, block=4096).answer("y" * 8192) == ()


def test_it_is_no_matter_where_a_long_prompt_is_cut_into_messages() -> None:
    longest = 1 << 20
    one, two = ({"role": "user", "content": letter * (longest - 100)} for letter in "ab")
    three = {"role": "user", "content": "c"}
    assert chain(CHAT, messages=[one, two]) == chain(CHAT, messages=[one, two, three])
    assert chain(CHAT, messages=[one, two]) != chain(CHAT, messages=[one, three])
    assert read(CHAT, messages=[one, two]).demand.tokens == (2 * longest - 200 + 12) / 4


def test_hashes_mean_nothing_to_another_process() -> None:
    code = (
        "from ollad.routing.prompt import PromptReader as P;"
        "print(P(128).read('/generate', {'text': 'x' * 200}, model='m', size=0).demand.chain)"
    )
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONHASHSEED"}
    run = [sys.executable, "-c", code]
    seen = {subprocess.check_output(run, env=environment) for _ in range(3)}
    assert len(seen) == 3

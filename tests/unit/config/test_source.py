from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from ollad.config.problems import Mark, Problems
from ollad.config.source import MAX_NODES, Mapping, Scalar, Sequence, parse

if TYPE_CHECKING:
    from ollad.config.source import Node


def parsed(text: str) -> Node:
    problems = Problems("f")
    root = parse(text, problems)
    assert problems.lines() == ()
    assert root is not None
    return root


def refused(text: str) -> str:
    problems = Problems("f")
    assert parse(text, problems) is None
    [line] = problems.lines()
    return line


def test_nodes_keep_text_quotes_and_places() -> None:
    assert parsed("a: [010, '5']\n") == Mapping(
        Mark(1, 1),
        (
            (
                Scalar(Mark(1, 1), "a", plain=True),
                Sequence(
                    Mark(1, 4),
                    (
                        Scalar(Mark(1, 5), "010", plain=True),
                        Scalar(Mark(1, 10), "5", plain=False),
                    ),
                ),
            ),
        ),
    )


def test_duplicate_keys_are_kept_for_the_reader_to_see() -> None:
    root = parsed("a: 1\na: 2\n")

    assert isinstance(root, Mapping)
    assert len(root.pairs) == 2


def test_an_alias_stands_for_its_anchor() -> None:
    root = parsed("a: &x [1]\nb: *x\n")

    assert isinstance(root, Mapping)
    assert root.pairs[0][1] is root.pairs[1][1]


def test_a_merge_key_adds_what_the_mapping_lacks() -> None:
    root = parsed("- &a {k: 1, l: 2}\n- &b {m: 3}\n- {l: 4, <<: [*a, *b]}\n")

    assert isinstance(root, Sequence)
    merged = root.items[2]
    assert isinstance(merged, Mapping)
    texts = {
        key.text: value.text
        for key, value in merged.pairs
        if isinstance(key, Scalar) and isinstance(value, Scalar)
    }
    assert texts == {"l": "4", "k": "1", "m": "3"}


def test_a_merge_of_something_else_is_a_problem() -> None:
    problems = Problems("f")

    parse("a: {<<: 5}", problems)

    assert problems.lines() == ("f:1:9: '<<' merges mappings only",)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "f:1:1: the file is empty"),
        ("# nothing\n", "f:1:1: the file is empty"),
        ("---\n", "f:1:1: the file is empty"),
        ("a: [1", "f:2:1: not valid YAML: while parsing a flow sequence"),
        ("a: b: c", "f:1:5: not valid YAML: mapping values"),
        ("a: 1\n---\nb: 2\n", "f:2:1: a second document"),
        ("a: *x", "f:1:4: alias '*x' has no anchor '&x'"),
        ("a: &x [*x]", "f:1:8: alias '*x' has no anchor"),
        ("a: 1\nb: x\x00", "f:2:5: not valid YAML: it contains a character"),
        ("a: \ud800", "f:1:4: not valid YAML: it contains a character"),
        ("a: {b: ${C}}", 'needs quotes: "${VAR}"'),
    ],
)
def test_what_cannot_be_parsed_is_one_problem_with_a_place(text: str, line: str) -> None:
    assert line in refused(text)


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system", "!!str", "!mine", "!"])
@pytest.mark.parametrize("value", ["x", "[x]", "{x: y}"])
def test_tags_are_refused(tag: str, value: str) -> None:
    problems = Problems("f")

    parse(f"a: {tag} {value}", problems)

    [line] = problems.lines()
    assert line.startswith(f"f:1:4: YAML tags are not taken here; remove '{tag}'")


def test_deep_nesting_is_refused_at_once() -> None:
    assert "nested deeper than 32 levels" in refused("[" * 100_000)


def test_aliases_of_aliases_are_refused_before_they_grow() -> None:
    names = [f"a{level}" for level in range(30)]
    lines = ["a0: &a0 [x, x]"]
    lines += [f"{name}: &{name} [*{below}, *{below}]" for below, name in pairwise(names)]

    assert f"more than {MAX_NODES} values" in refused("\n".join(lines))

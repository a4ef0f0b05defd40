from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollad.config.problems import Mark, Problems, joined, safe_url, shown


def test_problems_are_told_in_the_order_of_the_file() -> None:
    problems = Problems("f")
    problems.place("a", Mark(9, 1))
    problems.add("a.b[0].c", "third")
    problems.add("b", "second", Mark(2, 10))
    problems.add("", "first")

    assert problems.lines() == ("f:1:1: first", "f:2:10: b: second", "f:9:1: a.b[0].c: third")


def test_a_problem_is_told_once() -> None:
    problems = Problems("f")
    problems.add("a", "x")
    problems.add("a", "x")

    assert problems.lines() == ("f:1:1: a: x",)


def test_an_odd_key_is_quoted_in_its_path() -> None:
    assert joined("", "a") == "a"
    assert joined("a", "b.c/d-e:f") == "a.b.c/d-e:f"
    assert joined("a", "b c") == "a['b c']"


def test_a_long_text_is_cut() -> None:
    assert shown("ö" * 100) == f"'{'ö' * 60}…'"


@given(st.text())
def test_a_shown_text_is_one_bounded_line(text: str) -> None:
    line = shown(text)

    assert line.isprintable()
    assert len(line) < 700


@pytest.mark.parametrize(
    ("url", "safe"),
    [
        ("http://gpu:1/x", "http://gpu:1/x"),
        ("http://u:secret@gpu", "http://***@gpu"),
        ("http://u:sec/r@et@gpu", "http://***@gpu"),
        ("u:secret@gpu", "***@gpu"),
        ("http://gpu?key=secret", "http://gpu?***"),
        ("http://u:p?secret@gpu", "http://***@gpu"),
    ],
)
def test_a_safe_url_has_no_credentials(url: str, safe: str) -> None:
    assert safe_url(url) == safe

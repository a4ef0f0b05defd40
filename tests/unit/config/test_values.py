from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollad.config.problems import InvalidValueError
from ollad.config.schema import SECRETS, Kind
from ollad.config.values import check_unquoted, convert, nearest

STRUCTURES = {Kind.SECTION, Kind.SECTIONS, *SECRETS}
SCALARS = sorted(set(Kind) - STRUCTURES, key=lambda kind: kind.name)


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (Kind.BOOLEAN, "true", True),
        (Kind.BOOLEAN, "false", False),
        (Kind.PORT, "0", 0),
        (Kind.PORT, "65535", 65535),
        (Kind.POSITIVE, "1", 1),
        (Kind.COUNT, "0", 0),
        (Kind.FRACTION, "0", 0.0),
        (Kind.FRACTION, "0.25", 0.25),
        (Kind.FRACTION, "1", 1.0),
        (Kind.FRACTION, "1.0", 1.0),
        (Kind.PERIOD, "1ms", 0.001),
        (Kind.DURATION, "0", 0.0),
        (Kind.SIZE, "1KiB", 1024),
        (Kind.NAME, "gpu-0.a_B", "gpu-0.a_B"),
        (Kind.STRING, "größer als", "größer als"),
        (Kind.HOSTS, "*", "*"),
        (Kind.HOSTS, "Example.ORG", "example.org"),
        (Kind.CHOICE, "json", "json"),
    ],
)
def test_text_becomes_the_value_of_its_kind(kind: Kind, text: str, value: Any) -> None:
    read = convert(kind, text, ("auto", "json"))

    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("kind", "text", "fix"),
    [
        (Kind.BOOLEAN, "yes", "write true"),
        (Kind.BOOLEAN, "On", "write true"),
        (Kind.BOOLEAN, "True", "write true"),
        (Kind.BOOLEAN, "no", "write false"),
        (Kind.BOOLEAN, "off", "write false"),
        (Kind.BOOLEAN, "maybe", ""),
        (Kind.PORT, "65536", ""),
        (Kind.PORT, "010", "write 10"),
        (Kind.PORT, "00", "write 0"),
        (Kind.PORT, "12:30", ""),
        (Kind.PORT, "9" * 5000, ""),
        (Kind.POSITIVE, "0", ""),
        (Kind.COUNT, "-1", ""),
        (Kind.FRACTION, "1.5", ""),
        (Kind.FRACTION, "-0.1", ""),
        (Kind.FRACTION, ".5", ""),
        (Kind.FRACTION, "20%", "write 0.2"),
        (Kind.FRACTION, "nan", ""),
        (Kind.POSITIVE, "-1", ""),
        (Kind.POSITIVE, "1e3", ""),
        (Kind.POSITIVE, "0x10", ""),
        (Kind.POSITIVE, "1_000", ""),
        (Kind.POSITIVE, "\u0663", ""),
        (Kind.PERIOD, "0", ""),
        (Kind.NAME, "a b", ""),
        (Kind.STRING, "a\nb", ""),
        (Kind.STRING, " a", ""),
        (Kind.STRING, "", ""),
        (Kind.CHOICE, "jsn", "did you mean 'json'?"),
        (Kind.CHOICE, "x", ""),
    ],
)
def test_text_of_another_kind_is_refused_with_a_fix(kind: Kind, text: str, fix: str) -> None:
    with pytest.raises(InvalidValueError) as caught:
        convert(kind, text, ("auto", "json"))

    assert caught.value.fix == fix


@pytest.mark.parametrize("kind", SCALARS)
@given(text=st.text())
def test_any_text_is_taken_or_refused(kind: Kind, text: str) -> None:
    with contextlib.suppress(InvalidValueError):
        assert convert(kind, text, ("a", "b")) is not None


@pytest.mark.parametrize("text", ["abc", "0", "42", "-7", "1.5", "1e3", "=", "<<", "y", "1.2.3"])
def test_unquoted_text_that_every_reader_reads_alike_is_taken(text: str) -> None:
    check_unquoted(text)


@pytest.mark.parametrize(
    "text",
    [
        *("yes", "no", "on", "off", "true", "null", "~", "12:30", "010", "0x1f", "1_000", "1.10"),
        *("+5", ".inf", "2024-01-01", "2024-01-01 10:00:00", "3."),
    ],
)
def test_unquoted_text_that_yaml_would_change_is_refused(text: str) -> None:
    with pytest.raises(InvalidValueError) as caught:
        check_unquoted(text)

    assert caught.value.fix == f'write "{text}"'


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("prority", "priority"),
        ("checkInterval", "check_interval"),
        ("check-interval", "check_interval"),
        ("zzz", None),
        ("", None),
    ],
)
def test_the_nearest_spelling_is_found(word: str, meant: str | None) -> None:
    assert nearest(word, ["priority", "check_interval", "url"]) == meant


def test_a_word_that_merely_shares_letters_was_not_meant() -> None:
    assert nearest("auth", ["batch", "health", "routing"]) is None

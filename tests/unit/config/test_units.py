from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollad.config.problems import InvalidValueError
from ollad.config.units import format_duration, format_size, parse_duration, parse_size

YEAR_MS = 366 * 24 * 3_600_000


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("0s", 0.0),
        ("250ms", 0.25),
        ("5s", 5.0),
        ("2m", 120.0),
        ("1h", 3600.0),
        ("1h30m", 5400.0),
        ("1h1m1s1ms", 3661.001),
        ("90m", 5400.0),
    ],
)
def test_a_duration_is_read_as_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("5", "write 5s"),
        ("0005", "write 5s"),
        ("12:30", "write it like 12m30s"),
        ("1.5s", "write 1s500ms"),
        ("5 s", "write 5s"),
        ("5sec", "write 5s"),
        ("10 minutes", "write 10m"),
        ("2d", "write 48h"),
        ("5S", "write 5s"),
        ("0.0001ms", ""),
        ("30m1h", ""),
        ("s", ""),
        ("-5s", ""),
        ("", ""),
        ("\u0665s", ""),
        ("9999999h", ""),
        ("5parsecs", ""),
    ],
)
def test_what_is_no_duration_is_refused_with_the_nearest_right_one(text: str, fix: str) -> None:
    with pytest.raises(InvalidValueError) as caught:
        parse_duration(text)

    assert caught.value.fix == fix


@given(st.integers(0, YEAR_MS))
def test_a_formatted_duration_is_read_back_as_itself(milliseconds: int) -> None:
    assert parse_duration(format_duration(milliseconds / 1000)) == milliseconds / 1000


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512", 512),
        ("64KiB", 65536),
        ("8MiB", 8 * 2**20),
        ("1GiB", 2**30),
        ("64kB", 64000),
        ("8MB", 8_000_000),
        ("1GB", 10**9),
    ],
)
def test_a_size_is_read_as_bytes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("64M", "write 64MiB"),
        ("64 MiB", "write 64MiB"),
        ("64mib", "write 64MiB"),
        ("64KB", "write 64kB"),
        ("64k", "write 64KiB"),
        ("1.5GiB", "write 1536MiB"),
        ("512B", "write 512"),
        ("8mb", "write 8000kB"),
        ("0", ""),
        ("1_000", ""),
        ("-1", ""),
        ("9999999999999GiB", ""),
        ("0.3KiB", ""),
        ("5parsecs", ""),
        ("1.5", ""),
    ],
)
def test_what_is_no_size_is_refused_with_the_nearest_right_one(text: str, fix: str) -> None:
    with pytest.raises(InvalidValueError) as caught:
        parse_size(text)

    assert caught.value.fix == fix


@given(st.integers(1, 2**50))
def test_a_formatted_size_is_read_back_as_itself(size: int) -> None:
    assert parse_size(format_size(size)) == size


@given(st.integers(1, 1000), st.sampled_from(["KiB", "MiB", "GiB", "kB", "MB", "GB"]))
def test_every_size_with_a_unit_survives_formatting(number: int, unit: str) -> None:
    size = parse_size(f"{number}{unit}")

    assert parse_size(format_size(size)) == size


@given(st.text(max_size=20))
def test_any_text_is_a_duration_and_a_size_or_is_refused(text: str) -> None:
    for parse in (parse_duration, parse_size):
        with contextlib.suppress(InvalidValueError):
            assert parse(text) >= 0

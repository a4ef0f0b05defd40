from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ollad.config.problems import InvalidValueError
from ollad.config.secretfile import read_secret

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("content", "secret"),
    [(b"abc", "abc"), (b"abc\n", "abc"), (b"abc\r\n", "abc"), (b"abc\n\n", "abc\n"), (b"", "")],
)
def test_one_trailing_line_break_is_not_part_of_a_secret(
    tmp_path: Path, content: bytes, secret: str
) -> None:
    file = tmp_path / "secret"
    file.write_bytes(content)

    assert read_secret(str(file)) == secret


@pytest.mark.parametrize("content", [b"\xff", b"x" * 70_000])
def test_a_file_that_cannot_be_a_secret_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "secret"
    file.write_bytes(content)

    with pytest.raises(InvalidValueError):
        read_secret(str(file))


@pytest.mark.parametrize("path", ["relative", "/does/not/exist", "/", "/a\x00b"])
def test_a_path_that_names_no_file_is_refused(path: str) -> None:
    with pytest.raises(InvalidValueError):
        read_secret(path)

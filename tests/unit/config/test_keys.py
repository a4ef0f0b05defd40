"""Keys of clients: how they are read, and that they are told to nobody."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from ollad.config.load import load_text
from ollad.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from ollad.config.schema import ApiKey

SECRET = "sk-0123456789abcdef"
DIGEST = hashlib.sha256(SECRET.encode()).hexdigest()


def keys(entries: str, **environ: str) -> tuple[ApiKey, ...]:
    text = f'endpoints: [{{url: "http://a", name: a}}]\nauth: {{keys: {entries}}}\n'
    return load_text(text, "f", environ).auth.keys


def problems(entries: str, **environ: str) -> str:
    with pytest.raises(ConfigError) as caught:
        keys(entries, **environ)
    assert SECRET not in str(caught.value)
    return str(caught.value)


def test_a_key_may_be_text_a_variable_a_file_or_a_hash(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(SECRET + "\n")
    for entry, environ in (
        (f'key: "{SECRET}"', {}),
        ('key: "${K}"', {"K": SECRET}),
        (f"key_file: {file}", {}),
        (f'sha256: "{DIGEST.upper()}"', {}),
    ):
        (key,) = keys(f"[{{name: alice, {entry}}}]", **environ)
        assert key.digest == hashlib.sha256(SECRET.encode()).digest()
        assert SECRET not in repr(key)
        assert DIGEST not in repr(key)


def test_no_key_is_the_default_and_may_be_written() -> None:
    assert keys("[]") == ()
    with pytest.raises(ConfigError, match=r"expected a list of mappings.*keys: \[\{name"):
        keys("{name: a}")


@pytest.mark.parametrize(
    "short", ["changeme", "0123456789abcde", "0123456789abcdé0", "a b c d " * 4]
)
def test_a_key_that_can_be_guessed_or_sent_by_nobody_is_refused_unseen(short: str) -> None:
    told = problems(f'[{{name: a, key: "{short}"}}]')

    assert "f:2:30: auth.keys[0].key: a key has 16 or more visible ASCII" in told
    assert short not in told


def test_the_file_of_a_key_is_named_and_its_content_is_not(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("too short")

    assert "too short" not in problems(f"[{{name: a, key_file: {file}}}]")
    assert "cannot read it: No such file" in problems("[{name: a, key_file: /nowhere}]")
    assert "/nowhere" in problems("[{name: a, key_file: /nowhere}]")
    assert "write the whole path" in problems("[{name: a, key_file: key}]")


def test_what_is_no_hash_is_refused_unseen() -> None:
    assert "64 hexadecimal digits" in problems(f'[{{name: a, sha256: "{SECRET}"}}]')
    empty = hashlib.sha256(b"").hexdigest()
    assert "SHA-256 of nothing" in problems(f'[{{name: a, sha256: "{empty}"}}]')
    assert "not set" in problems('[{name: a, key: "${NOWHERE}"}]')
    assert "got a list" in problems("[{name: a, key: [x]}]")
    assert "unless quoted" in problems("[{name: a, key: 2024-01-01}]")


def test_a_client_has_one_secret() -> None:
    assert "auth.keys[0]: no secret; give one of key, key_file, sha256" in problems("[{name: a}]")
    both = f'[{{name: a, key: "{SECRET}", sha256: "{DIGEST}"}}]'
    assert "more than one secret" in problems(both)


def test_names_and_secrets_are_unique() -> None:
    one = f'{{name: a, key: "{SECRET}"}}'
    assert "auth.keys[1].name: 'a' is already the name of auth.keys[0]" in problems(
        f'[{one}, {{name: a, key: "{SECRET}2"}}]'
    )
    told = problems(f'[{one}, {{name: b, sha256: "{DIGEST}"}}]')
    assert "auth.keys[1]: the same secret as auth.keys[0]" in told
    assert "'-' stands for requests without a key" in problems(f'[{{name: "-", key: "{SECRET}"}}]')


def test_limits_are_whole_numbers_and_0_is_none() -> None:
    (key,) = keys(f'[{{name: a, key: "{SECRET}", requests_per_minute: 0, max_concurrent: 4}}]')
    assert (key.requests_per_minute, key.tokens_per_minute, key.max_concurrent) == (0, 0, 4)
    assert "0 or more" in problems(f'[{{name: a, key: "{SECRET}", tokens_per_minute: -1}}]')

"""The look into multipart forms."""

from __future__ import annotations

from email.parser import BytesParser
from email.policy import HTTP

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollad.multipart import FormField, form_field


def part(name: str, value: bytes, extra: str = "") -> bytes:
    head = f'Content-Disposition: form-data; name="{name}"{extra}\r\n\r\n'
    return head.encode() + value


def form(*parts: bytes, boundary: str = "B") -> bytes:
    mark = boundary.encode()
    return b"".join(b"--" + mark + b"\r\n" + one + b"\r\n" for one in parts) + b"--" + mark + b"--"


def test_a_field_is_found_wherever_it_stands_and_its_place_is_known() -> None:
    file = part("file", b"\x00\xff\r\n\r\n--C\r\n", '; filename="model"')
    for parts in ([part("model", b"tiny"), file], [file, part("model", b"tiny")]):
        body = form(*parts)
        found = form_field(body, "B", "model")
        assert found is not None
        assert found.value == "tiny"
        assert body[found.start : found.end] == b"tiny"


def test_of_several_the_last_counts() -> None:
    body = form(part("model", b"one"), part("model", b"two"))
    found = form_field(body, "B", "model")
    assert found is not None
    assert found.value == "two"


def test_nothing_behind_the_end_of_the_form_counts() -> None:
    body = form(part("model", b"one")) + b"\r\n" + form(part("model", b"two"))
    found = form_field(body, "B", "model")
    assert found is not None
    assert found.value == "one"


def test_a_preamble_and_padding_are_passed_over() -> None:
    body = b"preamble\r\n--B \t\r\n" + part("model", b"tiny") + b"\r\n--B--"
    found = form_field(body, "B", "model")
    assert found is not None
    assert found.value == "tiny"


def test_an_empty_value_is_a_value() -> None:
    found = form_field(form(part("model", b"")), "B", "model")
    assert found is not None
    assert (found.value, found.start) == ("", found.end)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--B",
        b"--B\r\n",
        b"--B--",
        b"--B--\r\n--B\r\n" + part("model", b"x") + b"\r\n--B--",
        b"--B\r\n--B\r\n--B\r\n",
        b"--B\r\n\r\n\r\n--B--",
        b"--B\r\n" + part("model", b"never ended"),
        form(part("Model", b"x")),
        form(part("file", b"x", '; filename="model"')),
        form(b"Content-Disposition: form-data; name*=utf-8''model\r\n\r\nx"),
        form(b"X-Other: name=model\r\n\r\nx"),
        form(b'Content-Disposition: form-data; name="model"'),
        form(part("model", b"\xff")),
        form(part("model", b"x" * 1025)),
        form(b"X: " + b"y" * 5000 + b"\r\n" + part("model", b"x")),
        form(part("model", b"x"), boundary="C"),
    ],
)
def test_what_is_no_short_text_in_a_field_of_that_name_is_not_found(body: bytes) -> None:
    assert form_field(body, "B", "model") is None


@given(st.binary(max_size=200))
def test_no_bytes_make_it_fail(noise: bytes) -> None:
    for body in (noise, b"--B\r\n" + noise, form(noise), form(part("model", noise))):
        found = form_field(body, "B", "model")
        assert found is None or body[found.start : found.end].decode() == found.value


_NAMES = st.sampled_from(["model", "file", "language"])
_VALUES = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=40)


@given(st.lists(st.tuples(_NAMES, _VALUES), max_size=5))
def test_it_reads_what_the_standard_library_reads(fields: list[tuple[str, str]]) -> None:
    body = form(*(part(name, value.encode()) for name, value in fields))
    head = b'Content-Type: multipart/form-data; boundary="B"\r\n\r\n'
    message = BytesParser(policy=HTTP).parsebytes(head + body)
    expected = [
        one.get_payload(decode=True)
        for one in (message.iter_parts() if fields else ())
        if one.get_param("name", header="Content-Disposition") == "model"
    ]
    found = form_field(body, "B", "model")
    assert (found and found.value.encode()) == (expected[-1] if expected else None)
    assert found is None or isinstance(found, FormField)

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ollad.config.schema import Media
from ollad.errors import BadRequestError
from ollad.sglang.media import check_media, names_media

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(80)).decode()
OPEN = Media(allow_hosts=("*",))
CLOSED = Media()
LISTED = Media(allow_hosts=("Images.example.com", "xn--bcher-kva.example", "2001:db8::1"))


def b64(data: bytes) -> str:
    return base64.b64encode(data + bytes(60)).decode()


def chat(url: Any) -> dict[str, Any]:
    part = {"type": "image_url", "image_url": {"url": url, "detail": "low"}}
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": "?"}, part]}]}


def refused(document: dict[str, Any], media: Media = OPEN) -> BadRequestError:
    with pytest.raises(BadRequestError) as caught:
        check_media(document, media)
    assert caught.value.code == "media_not_allowed"
    return caught.value


def test_text_has_no_media() -> None:
    assert check_media({"text": "file:///etc/passwd", "messages": [{"content": "x"}]}, CLOSED) == 0


def test_the_pages_own_example_is_refused_by_its_path() -> None:
    error = refused(chat("..."))
    assert error.param == "messages[0].content[1].image_url.url"
    assert "media.allow_hosts" in error.message
    assert "media.allow_data" in error.message
    assert "'...'" in error.message


@pytest.mark.parametrize(
    "url",
    [
        "http://images.example.com/a.png",
        "HTTPS://images.example.com/a.png",
        "Data:image/png;base64,AAAA",
        "file:///etc/passwd",
        "/etc/passwd",
        "/srv/images/cat.png",
        "cat.png",
        "//etc/passwd0",
        "ftp://images.example.com/",
        "https:images.example.com",
        "https:///a.png",
        "https://",
        "https://user@images.example.com/",
        "https://images.example.com:8443/",
        "https://images.example.com:/",
        "https://images.example.com./",
        "https://.images.example.com/",
        "https://images.example.com\\@evil.example/",
        "https://images.example.com\t/",
        "https://images.example.com/a b",
        "https://images.example.com/\x00",
        "https://images%2eexample.com/",
        "https://images。example.com/",
        "https://bücher.example/",
        "https://[::1",
        "https://" + "a" * 300 + "/",
        " https://images.example.com/",
        "data:image/png;base64",
        "",
        "AAAA",
        PNG[:-1],
        PNG[:100] + "\n" + PNG[100:],
        PNG[:100] + "===="[: 4 - len(PNG) % 4] + PNG[100:],
        PNG + "!===",
        PNG.replace("A", "é", 1),
    ],
)
def test_whatever_is_not_inline_or_https_is_refused_even_with_all_hosts_allowed(url: str) -> None:
    refused(chat(url))


@pytest.mark.parametrize(
    "url",
    [
        "https://images.example.com/a.png?b=c&d=%20#e",
        "https://IMAGES.Example.Com",
        "https://images.example.com:443/a",
        "https://images.example.com?x=@evil",
        "https://xn--bcher-kva.example/",
        "https://[2001:db8::1]/a.png",
        "data:image/png;base64," + PNG,
        PNG,
    ],
)
def test_listed_hosts_and_inline_data_are_let_through(url: str) -> None:
    assert check_media(chat(url), LISTED) == 1
    assert check_media(chat(url), OPEN) == 1


@pytest.mark.parametrize(
    "host", ["evil.example", "a.images.example.com", "images.example.com.evil"]
)
def test_a_host_that_is_not_listed_is_refused_naming_the_setting(host: str) -> None:
    error = refused(chat(f"https://{host}/a.png"), LISTED)
    assert f"'{host}' is not in media.allow_hosts" in error.message


@pytest.mark.parametrize("url", ["data:image/png;base64," + PNG, PNG])
def test_inline_data_can_be_turned_off(url: str) -> None:
    error = refused(chat(url), Media(allow_data=False, allow_hosts=("*",)))
    assert "media.allow_data" in error.message


@pytest.mark.parametrize(
    ("field", "head"),
    [
        ("image_data", b"\x89PNG\r\n\x1a\n"),
        ("image_data", b"\xff\xd8\xff\xe0"),
        ("image_data", b"GIF87a"),
        ("image_data", b"GIF89a"),
        ("image_data", b"RIFF....WEBP"),
        ("image_data", b"BM1234\0\0\0\0"),
        ("video_data", b"\0\0\0\x20ftypisom"),
        ("video_data", b"\x1a\x45\xdf\xa3"),
        ("video_data", b"RIFF....AVI "),
        ("audio_data", b"RIFF....WAVE"),
        ("audio_data", b"ID3"),
        ("audio_data", b"fLaC"),
        ("audio_data", b"OggS"),
    ],
)
def test_bare_base64_is_known_by_how_it_begins(field: str, head: bytes) -> None:
    assert check_media({field: b64(head)}, CLOSED) == 1
    refused({"audio_data" if field == "image_data" else "image_data": b64(head)})


def test_base64_that_could_be_a_path_is_only_taken_where_the_server_wraps_it() -> None:
    frame = b64(b"\xff\xfb\x90")
    assert frame.startswith("//")
    refused({"audio_data": frame})
    assert (
        check_media({"content": [{"input_audio": {"data": frame, "format": "mp3"}}]}, CLOSED) == 1
    )
    refused({"content": [{"input_audio": {"data": "/w==", "format": "mp3"}}]})


def test_every_form_of_a_value_is_counted() -> None:
    document = {
        "image_data": [PNG, None, [PNG, {"url": PNG, "format": "x"}]],
        "audio_data": None,
        "video_data": [],
        "messages": [{"content": [{"image_url": PNG}, {"video_url": {"url": PNG}}]}],
    }
    assert check_media(document, CLOSED) == 5


@pytest.mark.parametrize(
    "value",
    [
        5,
        True,
        {},
        {"detail": "low"},
        {"url": None},
        {"url": 5},
        {"url": ["file:///x"]},
        {"path": "/x"},
    ],
)
def test_a_medium_of_another_shape_is_refused(value: Any) -> None:
    refused({"image_data": value})
    refused({"image_data": [value]})


def test_a_medium_inside_a_medium_is_checked() -> None:
    document = {"image_url": {"url": PNG, "video_url": {"url": "/etc/passwd"}}}
    assert refused(document).param == "image_url.video_url.url"


def test_long_names_on_the_way_to_a_medium_are_shortened() -> None:
    error = refused({"k" * 1_000_000: {"image_url": "/x"}})
    assert error.param == "k" * 59 + "….image_url"
    assert len(error.message) < 500


def test_of_a_deep_way_to_a_medium_the_end_is_told() -> None:
    document: dict[str, Any] = {"image_url": "/x"}
    for depth in range(10_000):
        document = {f"key{depth}": document}
    error = refused(document)
    assert error.param is not None
    assert len(error.param) == 200
    assert error.param.startswith("…")
    assert error.param.endswith(".key1.key0.image_url")
    assert len(error.message) < 700


@pytest.mark.parametrize(
    ("source", "param"),
    [
        ({"type": "url", "url": "file:///etc/passwd"}, "url"),
        ({"type": "base64", "data": PNG, "url": "/etc/passwd"}, "url"),
        ({"url": "http://10.0.0.1/"}, "url"),
        ({"type": "base64", "data": "../x"}, "data"),
        ({"type": "base64"}, "data"),
        ({"type": "file", "file_id": "file_1"}, "file_id"),
    ],
)
@pytest.mark.parametrize("kind", ["image", "document"])
def test_sources_of_anthropic_blocks_are_guarded(
    kind: str, source: dict[str, Any], param: str
) -> None:
    block = {"type": kind, "source": source}
    tool_result = {"type": "tool_result", "content": [block]}
    path = f"messages[0].content[0].content[0].source.{param}"
    assert refused({"messages": [{"content": [tool_result]}]}).param == path


def test_harmless_sources_pass() -> None:
    blocks = [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
        {"type": "document", "source": {"type": "text", "data": "plain text"}},
        {"type": "search_result", "source": "http://found.example/"},
        {"type": "image", "source": "http://not.read.example/"},
    ]
    assert check_media({"messages": [{"content": blocks}]}, CLOSED) == 1
    nested = {"type": "document", "source": {"content": [{"image_url": "/x"}]}}
    refused({"messages": [{"content": [nested]}]})


def test_parts_of_the_responses_api_are_guarded() -> None:
    def request(part: dict[str, Any]) -> dict[str, Any]:
        return {"input": [{"role": "user", "content": [part]}]}

    assert check_media(request({"type": "input_image", "image_url": PNG}), CLOSED) == 1
    assert (
        refused(request({"type": "input_image", "image_url": "/x"})).param
        == "input[0].content[0].image_url"
    )
    refused(request({"type": "input_image", "file_id": "file-1"}))
    refused(request({"type": "input_file", "file_url": "http://10.0.0.1/"}))
    output = {"type": "computer_call_output", "output": {"image_url": "file:///x"}}
    refused({"input": [output]})


def test_inputs_of_multimodal_embeddings_are_guarded() -> None:
    assert check_media({"input": [{"text": "a"}, {"image": PNG, "video": None}]}, CLOSED) == 1
    assert refused({"input": [{"text": "a"}, {"image": "/etc/passwd"}]}).param == "input[1].image"
    assert refused({"input": [{"video": "file:///x"}]}).param == "input[0].video"


def test_property_names_in_schemas_and_arguments_of_tools_are_not_media() -> None:
    schema = {"properties": {"image_url": {"type": "string"}, "url": {}}}
    document = {
        "tools": [{"function": {"parameters": schema}}],
        "response_format": {"json_schema": {"schema": schema}},
        "text": {"format": {"schema": schema}},
        "messages": [
            {"tool_calls": [{"function": {"arguments": {"image_url": "cat.png"}}}]},
            {"content": [{"type": "tool_use", "input": {"image_url": "cat.png"}}]},
        ],
    }
    assert check_media(document, CLOSED) == 0


def test_a_long_value_is_shortened_in_the_message() -> None:
    error = refused({"image_data": "http://" + "a" * 500})
    assert "a" * 50 in error.message
    assert "a" * 60 not in error.message


FIELDS = st.sampled_from(
    ["image_url", "video_url", "audio_url", "input_audio", "image_data", "video_data", "audio_data"]
)


@st.composite
def nested(draw: st.DrawFn) -> dict[str, Any]:
    """A request with one bad URL under a media field, somewhere."""
    value: Any = draw(st.sampled_from(["file:///etc/passwd", "/etc/passwd", "http://10.0.0.1/"]))
    if draw(st.booleans()):
        value = {draw(st.sampled_from(["url", "data"])): value, "format": "wav"}
    for _ in range(draw(st.integers(0, 5))):
        value = [PNG, value] if draw(st.booleans()) else [value]
    value = {draw(FIELDS): value}
    for _ in range(draw(st.integers(0, 30))):
        name = draw(st.sampled_from(["content", "a", "image_url", "messages", "data"]))
        value = draw(
            st.sampled_from([{name: value}, [value], {"x": [1], "y": {}, name: [{}, value]}])
        )
    return value if isinstance(value, dict) else {"messages": value}


@given(nested())
def test_a_bad_url_is_refused_wherever_it_stands(document: dict[str, Any]) -> None:
    refused(document)


@given(st.text(max_size=40), st.sampled_from(["", "https://", "data:", "/", "file:"]))
def test_a_value_that_passes_can_only_be_inline_or_https(text: str, prefix: str) -> None:
    value = prefix + text
    try:
        check_media({"image_data": value}, OPEN)
    except BadRequestError:
        return
    assert value.startswith(("https://", "data:")) or base64.b64decode(value, validate=True)


KEYS = st.sampled_from(
    [
        *("image_url", "image_data", "video_url", "video_data", "audio_url", "audio_data"),
        *("input_audio", "file_url", "image", "video", "source", "file_id", "url", "data"),
        *("type", "role", "content", "name", "text", "messages", "input", "tools", "prompt"),
        *("tool_calls", "response_format", "x"),
    ]
)
LEAVES = st.sampled_from(
    ["file:///etc/passwd", "user", "image", "document", "input_image", "base64", "", None, 1, True]
)
INNER = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)
TEXTS = st.dictionaries(st.sampled_from(["role", "content", "name"]), LEAVES, max_size=3)
DOCUMENTS = st.dictionaries(KEYS, INNER, max_size=4) | st.builds(
    lambda rest, messages: {**rest, "messages": messages},
    st.dictionaries(KEYS, LEAVES | INNER, max_size=3),
    st.lists(TEXTS | st.dictionaries(KEYS, INNER, max_size=3), max_size=3),
)


@settings(max_examples=1000)
@given(DOCUMENTS)
def test_what_is_said_to_name_no_media_names_none(document: dict[str, Any]) -> None:
    if not names_media(document):
        assert check_media(document, CLOSED) == 0


def test_most_requests_are_seen_to_name_no_media() -> None:
    message = {"role": "user", "content": "image_url: https://x.example/"}
    chat_request = {"model": "m", "messages": [message] * 9, "stream": True, "temperature": 0.5}
    assert not names_media(chat_request)
    assert not names_media({"text": "file:///etc/passwd", "rid": "1"})
    assert names_media(chat("x"))
    assert names_media({"image_data": None})
    assert names_media({"messages": [{**message, "audio_url": "x"}]})

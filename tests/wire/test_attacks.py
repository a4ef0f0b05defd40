"""Whatever is sent, a backend hears only what the API is for.

The backends here answer every path, so that anything that gets past the allow-list or a guard is
seen. What is not refused has to arrive under a path of the list, with nothing clever about it.
"""

from __future__ import annotations

import json
import re
from itertools import product
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ollad.config.schema import Media
from ollad.errors import BadRequestError
from ollad.handlers import ROUTES
from ollad.jsontext import parse_object
from ollad.sglang.media import check_media
from ollad.sglang.parameters import REFUSED_FIELDS, refuse_fields
from tests.wire.conftest import PREFIX
from tests.wire.fake_sglang import reply
from tests.wire.raw import exchange, request

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.wire.conftest import Running
    from tests.wire.fake_sglang import Exchange, FakeSGLang

BODY = b'{"model": "tiny", "prompt": "x", "text": "x", "input": "x", "messages": []}'
JSON = "Content-Type: application/json"

RELAYED = {
    *(route.path.removeprefix(PREFIX) for route in ROUTES if route.path.startswith(PREFIX)),
    "/v1/chat/completions",
    "/generate",
}
"""Paths of backends that clients' requests may reach, but for those with an id."""

FORBIDDEN = ("flush_cache", "update_weights_from_disk", "server_info", "api/chat", "shutdown")


class Everything(dict[str, Any]):
    """Scripts that answer every path, probes as they are."""

    def __init__(self, fake: FakeSGLang) -> None:
        super().__init__()
        self._fake = fake

    def get(self, path: str, default: Any = None) -> Any:
        if self._fake.probe_reply(path) is not None:
            return default
        return reply({"text": "", "object": "ok", "meta_info": {}})


@pytest.fixture
def open_fake(fake: FakeSGLang) -> FakeSGLang:
    fake.scripts = Everything(fake)
    return fake


async def send(ollad: Running, line: str, *headers: str, body: bytes = BODY) -> int:
    """The status of the answer; 0 if there was none."""
    answer = await exchange(ollad.port, request(line, JSON, *headers, body=body))
    assert len(re.findall(rb"HTTP/1\.[01] [1-5]\d\d ", answer)) <= 1
    return int(answer[9:12]) if answer else 0


def clever(seen: Exchange) -> bool:
    """Whether a request that arrived is anything but a plain one for a path of the list."""
    path = seen.target.partition("?")[0]
    known = path in RELAYED or re.fullmatch(r"/v1/responses/[\w-]{1,128}(/cancel)?", path)
    return not known


def spellings(path: str) -> Iterator[str]:
    """Other ways to write ``path`` that some server or other takes for the same."""
    plain = f"{PREFIX}/{path}"
    yield plain
    head, _, last = path.rpartition("/")
    for text in (last, last[0]):
        for letter in {text[0], text[-1]}:
            encoded = f"%{ord(letter):02x}"
            yield plain.replace(letter, encoded)
            yield plain.replace(letter, encoded.upper())
            yield plain.replace(letter, encoded.replace("%", "%25"))
            yield plain.replace(letter, f"%u00{ord(letter):02x}")
            yield plain.replace(letter, f"%c1%{ord(letter) + 0x40:02x}")
    for known, step in product(
        ("generate", "v1/models/x", "v1/responses/x", "tokenize"),
        (
            *("..", "%2e%2e", ".%2e", "%2E.", "%252e%252e", "..;", "..;x=1", "..%00", "..%20"),
            *("..\\", "..%5c", "..%2f", "%2e%2e%2f", "..%252f", "..%c0%af", "\uff0e\uff0e", ". ."),
        ),
    ):
        up = "/".join([step] * (known.count("/") + 1))
        yield f"{PREFIX}/{known}/{up}/{path}"
        yield f"{PREFIX}/{known}%2f{up}%2f{path}"
        yield f"{PREFIX}/{known}?/{up}/{path}"
        yield f"{PREFIX}/{known}#/{up}/{path}"
        yield f"{PREFIX}/{known};/{up}/{path}"
    for between in ("//", "/./", "/%2f", "%2f", "/%5c", "\\", "/;/", "/;a=b/", "/%00/", "/\t"):
        yield f"{PREFIX}{between}{path}"
        yield f"/olla{between}sglang{between}{path}"
    for behind in ("/", "//", "/.", "/..", ";", ";a", "%00", "%20", "%0a", "%0d%0a", "%3f", "%23"):
        yield plain + behind
        yield f"{PREFIX}/generate{behind}{path}"
    yield from (plain.upper(), plain.title(), f"{PREFIX.upper()}/{path}", plain.swapcase())
    yield from (f"/{path}", f"//{path}", f"{PREFIX}{path}", f"{PREFIX}/{head}//{last}", path, "*")
    for host in (
        "http://ollad.example",
        "http://127.0.0.1:1",
        "http://u:p@x",
        "https://x:0",
        "HTTP://x",
    ):
        yield f"{host}{plain}"
        yield f"{host}/{path}"
        yield f"{host}{PREFIX}/generate/../{path}"
    yield f"//evil.example{plain}"
    yield f"{PREFIX}/v1/models/..%2f..%2f{path}"
    yield f"{PREFIX}/v1/responses/..%2f..%2f{path}/cancel"
    yield f"{PREFIX}/v1/responses/{path}%00/cancel"
    yield f"{PREFIX}/generate%20HTTP/1.1%0d%0aX:%20/{path}"


@pytest.mark.parametrize("path", FORBIDDEN)
@pytest.mark.parametrize("method", ["POST", "GET"])
async def test_no_spelling_of_a_path_gets_past_the_list(
    method: str, path: str, open_fake: FakeSGLang, ollad: Running
) -> None:
    answered = set()
    for target in spellings(path):
        body = BODY if method == "POST" else b""
        line = f"{method} {target}".encode().decode("latin-1")
        answered.add(await send(ollad, line, body=body))
        assert not [seen.target for seen in open_fake.requests if clever(seen)], target
        assert not any(path in seen.target.partition("?")[0] for seen in open_fake.requests)
    assert answered <= {200, 400, 404, 405, 415}
    assert 404 in answered


@given(
    method=st.sampled_from(["GET", "POST", "PUT"]),
    pieces=st.lists(
        st.sampled_from(
            [
                *("/olla/sglang", "/generate", "/v1/models", "/v1/responses", "/v1", "/tokenize"),
                *("/flush_cache", "flush_cache", "/", "//", "/.", "/..", "%2e", "%2f", "%5c", "\\"),
                *(";", "%3b", "?", "%3f", "#", "%23", "%00", "%25", "%", "%zz", "@", ":", "[", "]"),
                *("http://x", "*", "é", "\x7f", "{", "|", "^", '"', "'", "<", "a", "cancel", "="),
            ]
        ),
        max_size=8,
    ),
)
@settings(
    max_examples=300,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
async def test_no_heap_of_pieces_of_paths_gets_past_the_list(
    method: str, pieces: list[str], open_fake: FakeSGLang, ollad: Running
) -> None:
    target = "".join(["/olla/sglang", *pieces]).encode().decode("latin-1")
    status = await send(ollad, f"{method} {target}", body=b"" if method == "GET" else BODY)

    assert 200 <= status < 500
    assert not [seen.target for seen in open_fake.requests if clever(seen)]


@pytest.mark.parametrize(
    "method", ["OPTIONS", "TRACE", "CONNECT", "PATCH", "DELETE", "get", "PoST"]
)
async def test_no_method_gets_past_the_list(
    method: str, open_fake: FakeSGLang, ollad: Running
) -> None:
    for path in ("/generate", "/v1/chat/completions", "/flush_cache", "/v1/models"):
        assert await send(ollad, f"{method} {PREFIX}{path}") in {400, 404, 405}
    assert open_fake.requests == []


@pytest.mark.parametrize(
    "header",
    [
        "X-HTTP-Method-Override: DELETE",
        "X-Original-URL: /flush_cache",
        "X-Rewrite-URL: /flush_cache",
        "X-Forwarded-Prefix: /flush_cache",
        "X-Forwarded-Path: /flush_cache",
        "Upgrade: websocket",
        "Connection: content-length",
        "Connection: host",
        "Connection: content-type",
        "Forwarded: host=evil.example;for=1.2.3.4",
        "X-Data-Parallel-Rank: 1",
        "x-sglext-anything: 1",
        "X-Olla-Endpoint: other",
    ],
)
async def test_no_header_changes_what_is_asked(
    header: str, open_fake: FakeSGLang, ollad: Running
) -> None:
    assert await send(ollad, f"POST {PREFIX}/v1/completions", header) == 200

    (seen,) = open_fake.requests
    assert (seen.method, seen.target, seen.body) == ("POST", "/v1/completions", BODY)
    assert seen.header("Host") == open_fake.url.removeprefix("http://")
    assert seen.header("Content-Length") == str(len(BODY))
    name, _, value = header.partition(": ")
    # routing headers mean nothing to SGLang's own server; those that do are not passed on
    if name in {"Upgrade", "Forwarded", "X-Data-Parallel-Rank", "x-sglext-anything"}:
        assert seen.header(name) is None
    assert seen.header("X-Olla-Endpoint") is None
    assert value


CONTENT_TYPES = (
    "",
    "text/plain",
    "text/json",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
    "application/jsonp",
    "application/json/",
    "application/ json",
    "application/json5",
    "application/ld+json",
    "application/json,text/plain",
    "text/plain, application/json",
    "text/plain; application/json",
    "json",
    "*/*",
    "application/*",
)


@pytest.mark.parametrize("content_type", CONTENT_TYPES)
async def test_a_browser_cannot_pass_json_off_as_something_harmless(
    content_type: str, open_fake: FakeSGLang, ollad: Running
) -> None:
    for route in ROUTES:
        if "POST" not in route.methods or "{" in route.path or "audio" in route.path:
            continue
        data = request(f"POST {route.path}", f"Content-Type: {content_type}", body=BODY)
        assert (await exchange(ollad.port, data)).startswith(b"HTTP/1.1 415 "), route.path
    assert open_fake.requests == []


async def test_two_content_types_are_not_better_than_one(
    open_fake: FakeSGLang, ollad: Running
) -> None:
    for types in (("application/json", "text/plain"), ("text/plain", "application/json")):
        headers = [f"Content-Type: {one}" for one in types]
        answer = await exchange(ollad.port, request(f"POST {PREFIX}/tokenize", *headers, body=BODY))
        assert answer[9:12] in {b"400", b"415"}, types
    assert open_fake.requests == []


BAD = "file:///etc/passwd"
FIELDS = (
    *("image_url", "video_url", "audio_url", "image_data", "video_data", "audio_data"),
    *("input_audio", "file_url"),
)


def values(bad: str) -> Iterator[Any]:
    """Ways to put a medium."""
    yield bad
    yield [bad]
    yield [["data:image/png;base64,AA==", bad]]
    yield {"url": bad}
    yield {"url": bad, "detail": "low"}
    yield {"url": {"url": bad}}
    yield [{"url": bad}]
    yield {"data": bad, "format": "wav"}
    yield {"url": "data:image/png;base64,AA==", "data": bad}
    yield {"image_url": bad}
    yield {"image_url": {"url": bad}}
    yield {"format": "path", "path": bad}
    yield {}


def nestings(field: str, value: Any) -> Iterator[dict[str, Any]]:
    """Places where a route of some family takes a medium, and some where none does."""
    medium = {field: value}
    part = {"type": field, **medium}
    yield medium
    yield {"messages": [{"role": "user", "content": [part]}]}
    yield {"messages": [{"role": "user", "content": [{"type": "text", **medium}]}]}
    yield {"messages": [{"role": "user", "content": part}]}
    yield {"messages": [{"role": "tool", "content": [part]}]}
    yield {"messages": [{"role": "assistant", "content": [{"type": "thinking", "x": [part]}]}]}
    yield {"messages": part}
    yield {"messages": [[part]]}
    yield {"prompt": [medium]}
    yield {"input": [part]}
    yield {"input": [{"role": "user", "content": [part]}]}
    yield {"input": {"content": [part]}}
    yield {"requests": [{"text": "x", **medium}]}
    yield {"requests": [{"text": "x", "nested": {"deeper": [medium]}}]}
    yield {"system": [part]}
    content = {"type": "tool_result", "content": [part]}
    yield {"messages": [{"role": "user", "content": [content]}]}
    yield {"query": [part], "documents": [[part]]}
    yield {"extra_body": medium}
    yield {"sampling_params": medium}
    yield {"a": {"b": {"c": [{"d": medium}]}}}


def guarded(document: dict[str, Any]) -> bool:
    """Whether the guards of a request refuse ``document``."""
    body = json.dumps(document).encode()
    try:
        parsed = parse_object(body)
        refuse_fields(parsed)
        check_media(parsed, Media())
    except BadRequestError:
        return True
    return False


@pytest.mark.parametrize("field", FIELDS)
def test_a_medium_is_found_wherever_it_is(field: str) -> None:
    for value in values(BAD):
        for document in nestings(field, value):
            assert guarded(document), document


URLS = (
    "http://169.254.169.254/latest",
    "HTTP://x/",
    "https://x/",
    "HTTPS://x/",
    "https:x",
    "https:/x",
    "https:\\\\x",
    "\thttps://x",
    "//x/y",
    "ftp://x",
    "gopher://x",
    "s3://b/k",
    "FILE:///etc/passwd",
    "file:/etc/passwd",
    "file:etc/passwd",
    " file:///etc/passwd",
    "\x00file:///etc/passwd",
    "/etc/passwd",
    "etc/passwd",
    "./x.png",
    "../x.png",
    "~/x.png",
    "x.png",
    "C:\\x.png",
    "\\\\host\\share",
    "/dev/zero",
    "/proc/self/environ",
    "DATA:image/png;base64,AA==",
    " data:image/png;base64,AA==",
    "data:",
    "data:image/png;base64",
    "javascript:1",
    "",
)


@pytest.mark.parametrize("url", URLS)
def test_nothing_but_inline_media_is_taken_by_default(url: str) -> None:
    for field in FIELDS:
        for value in (url, [url], {"url": url}):
            assert guarded({field: value}), (field, value)
            assert guarded({"messages": [{"content": [{field: value}]}]}), (field, value)


@pytest.mark.parametrize(
    "host",
    [
        "ok.example.evil.example",
        "evil.example/ok.example",
        "ok.example@evil.example",
        "evil.example#ok.example",
        "evil.example?ok.example",
        "evil.example\\ok.example",
        "ok.example:8443",
        "ok.example.",
        "xok.example",
        "ok.example%2eevil.example",
        "ok.example%00.evil.example",
        "ok。example",
        "[::1]",
        "127.1",
        "ok.example\t.evil.example",
        "ok.example:443@evil.example",
        "ok.example:443:80",
        "",
    ],
)
def test_an_allowed_host_is_only_itself(host: str) -> None:
    with pytest.raises(BadRequestError):
        check_media({"image_data": f"https://{host}/x.png"}, Media(allow_hosts=("ok.example",)))


@pytest.mark.parametrize("field", REFUSED_FIELDS)
async def test_a_refused_field_is_refused_in_every_spelling_that_is_the_same(
    field: str, open_fake: FakeSGLang, ollad: Running
) -> None:
    escaped = "".join(f"\\u{ord(letter):04x}" for letter in field)
    once = f"\\u{ord(field[0]):04x}{field[1:]}"
    for name in (field, escaped, once):
        for text in (
            f'{{"model": "tiny", "text": "x", "{name}": 1}}',
            f'{{"{name}": null, "model": "tiny", "text": "x", "{name}": 1}}',
            f'{{"{name}": 1, "model": "tiny", "text": "x", "{name}": null, "{name}": [1]}}',
        ):
            for path in ("/generate", "/v1/chat/completions", "/v1/messages", "/extend"):
                body = text.encode()
                assert await send(ollad, f"POST {PREFIX}{path}", body=body) == 400, (path, text)
    for item in (f'{{"text": "x", "{field}": 1}}', f'{{"text": "x", "{escaped}": [1]}}'):
        body = f'{{"model": "tiny", "requests": [{{"text": "y"}}, {item}]}}'.encode()
        assert await send(ollad, f"POST {PREFIX}/batch", body=body) == 400
    assert open_fake.requests == []


@pytest.mark.parametrize("first", [True, False])
async def test_of_a_field_given_twice_none_slips_through(
    first: bool, ollad: Running, open_fake: FakeSGLang
) -> None:
    good, bad = '"image_data": null', f'"image_data": "{BAD}"'
    members = (bad, good) if first else (good, bad)
    body = f'{{"model": "tiny", "text": "x", {", ".join(members)}}}'.encode()
    status = await send(ollad, f"POST {PREFIX}/generate", body=body)

    # SGLang's parser takes the last of the two, as ollad's does
    assert status == (200 if first else 400)
    assert len(open_fake.requests) == first


SMUGGLED = "POST /flush_cache HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize(
    "framing",
    [
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 5, 6",
        "Content-Length: +5",
        "Content-Length: -1",
        "Content-Length: 0x5",
        "Content-Length: 5 5",
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: identity, chunked, chunked",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding:\x0bchunked",
        "Transfer-Encoding : chunked",
        "Content-Length : 5",
        " Content-Length: 5",
        "X: y\r\n Content-Length: 5",
        "X: y\nContent-Length: 5",
        "X: y\rContent-Length: 5",
        "X: \x00\r\nContent-Length: 5",
        "Content_Length: 5",
    ],
)
async def test_no_framing_hides_a_request_behind_another(
    framing: str, open_fake: FakeSGLang, ollad: Running
) -> None:
    head = f"POST {PREFIX}/tokenize HTTP/1.1\r\nHost: x\r\n{JSON}\r\n{framing}\r\n\r\n"
    answer = await exchange(
        ollad.port, (head + SMUGGLED).encode("latin-1") + b"GET /x HTTP/9.9\r\n\r\n"
    )

    assert answer[9:10] == b"4"
    assert not [seen for seen in open_fake.requests if clever(seen) or b"flush" in seen.body]

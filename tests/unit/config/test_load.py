from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ollad.config.load import EXAMPLE, load_file, load_text
from ollad.config.schema import Config, Endpoint, ModelFilter, Server
from ollad.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

PAGE = """\
endpoints:
  - url: "http://192.168.0.100:30000"
    name: "sglang-server"
    type: "sglang"
    priority: 90
    model_url: "/v1/models"
    health_check_url: "/health"
    check_interval: 5s
    check_timeout: 2s
    headers:
      X-API-Key: "${SGLANG_API_KEY}"
"""
ONE = "endpoints: [{url: 'http://gpu:1', name: a}]\n"


def load(text: str, **environ: str) -> Config:
    return load_text(text, "f", environ)


def problems(text: str, environ: Mapping[str, str] | None = None) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load_text(text, "f", environ or {})
    found = caught.value.problems
    assert all("\n" not in line for line in found)
    return found


def problem(text: str, environ: Mapping[str, str] | None = None) -> str:
    [line] = problems(text, environ)
    return line


def endpoint(keys: str) -> str:
    """A file whose only endpoint has ``keys`` in line 2, each from column 14 on."""
    return f"endpoints:\n  - {{url: 'http://gpu:1', name: a,\n{keys}}}\n"


def test_the_example_of_the_api_page_works_verbatim() -> None:
    [read] = load(PAGE, SGLANG_API_KEY="k-1").endpoints

    assert read == Endpoint(
        url="http://192.168.0.100:30000",
        name="sglang-server",
        priority=90,
        headers={"X-API-Key": "k-1"},
    )


def test_the_example_of_the_api_page_names_its_unset_variable() -> None:
    assert problem(PAGE) == (
        "f:11:18: endpoints[0].headers.X-API-Key: environment variable SGLANG_API_KEY is not set; "
        "set it or write ${SGLANG_API_KEY:-default}"
    )


def test_what_is_not_given_has_its_default() -> None:
    assert load(ONE) == Config(endpoints=(Endpoint(url="http://gpu:1", name="a"),))


def test_every_section_is_read() -> None:
    config = load(
        ONE
        + """
server: {host: "::1", port: 0, trusted_proxies: [10.0.0.0/8], max_body_size: 1GiB}
routing: {model_aliases: {gpt: qwen/Qwen3, "4": llama}}
proxy: {total_timeout: 1h, attempts: 1}
health: {fall: 1}
media: {allow_data: false, allow_hosts: [Images.example, "*"]}
batch: {max_items: 1}
conversations: {ttl: 1m}
annotate: {json: false}
logging: {level: debug, format: json, access: false}
"""
    )

    assert config.server == Server(
        host="::1", port=0, trusted_proxies=("10.0.0.0/8",), max_body_size=2**30
    )
    assert config.routing.model_aliases == {"gpt": "qwen/Qwen3", "4": "llama"}
    assert (config.proxy.total_timeout, config.proxy.attempts) == (3600.0, 1)
    assert config.media.allow_hosts == ("images.example", "*")
    assert not config.annotate.json
    assert config.logging.level == "debug"


def test_anchors_and_merge_keys_save_repetition() -> None:
    config = load(
        "endpoints:\n"
        "  - &a {url: 'http://a:1', name: a, priority: 7, models: &m {include: [x]}}\n"
        "  - {<<: *a, name: b}\n"
        "  - {url: 'http://c:1', name: c, models: *m}\n"
    )

    assert [e.name for e in config.endpoints] == ["a", "b", "c"]
    assert [e.priority for e in config.endpoints] == [7, 7, 100]
    assert config.endpoints[2].models == ModelFilter(include=("x",))


def test_a_loaded_configuration_cannot_be_changed() -> None:
    headers = load(endpoint("headers: {X: y}")).endpoints[0].headers

    with pytest.raises(TypeError):
        headers["X"] = "z"  # type: ignore[index]


def test_all_problems_are_told_at_once_in_the_order_of_the_file() -> None:
    text = """\
endpoints:
  - url: gpu:30000
    name: a
    prority: 90
    check_interval: 5
    forward_authorization: yes
  - name: a
sever: {port: 1}
server: {port: 010}
logging: {level: 3}
port: 80
"""

    assert problems(text) == (
        (
            "f:2:10: endpoints[0].url: expected an http:// or https:// URL, got 'gpu:30000': "
            "the scheme is missing; write 'http://gpu:30000'"
        ),
        "f:4:5: endpoints[0].prority: unknown key, did you mean 'priority'?",
        (
            "f:5:21: endpoints[0].check_interval: expected a duration above 0 such as 250ms, 5s, "
            "2m or 1h, got '5': a number alone has no unit; write 5s"
        ),
        (
            "f:6:28: endpoints[0].forward_authorization: expected true or false, got 'yes': "
            "only these two words are booleans; write true"
        ),
        (
            "f:7:5: endpoints[1]: 'url' is missing; write for example: "
            'url: "http://127.0.0.1:30000"'
        ),
        (
            "f:7:11: endpoints[1].name: 'a' is already the name of endpoints[0]; "
            "give each endpoint its own"
        ),
        "f:8:1: sever: unknown key, did you mean 'server'?",
        (
            "f:9:16: server.port: expected a port number from 0 to 65535, got '010': "
            "leading zeros make it octal in YAML; write 10"
        ),
        (
            "f:10:18: logging.level: expected one of debug, info, warning, error, got '3': "
            "no such choice"
        ),
        "f:11:1: port: unknown key here; it belongs in 'server'",
    )


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (ONE + "zzzz: 1", "f:2:1: zzzz: unknown key; the keys here are endpoints, server,"),
        (ONE + "batch:\n", "f:2:1: batch: expected a mapping, got no value; give it keys or"),
        (ONE + "batch: {max_items: }", "f:2:9: batch.max_items: expected a whole number, 1 or"),
        (ONE + "batch: {max_items: ~}", "got no value; give it a value or remove it"),
        (ONE + "batch: {max_items: [1]}", "got a list"),
        (ONE + "batch: [1]", "f:2:8: batch: expected a mapping, got a list"),
        (ONE + "batch: 5", "f:2:8: batch: expected a mapping, got text"),
        (ONE + "batch: {max_items: 5, max_items: 6}", "f:2:23: batch.max_items: given twice"),
        (ONE + "? [a]\n: b", "f:2:3: a key must be text, not a list"),
        (ONE + "server: {port: '${NO}'}", "server.port: environment variable NO is not set; set"),
        (ONE + "media: {allow_hosts: }", "f:2:9: media.allow_hosts: expected a list of host names"),
        (ONE + "media: {allow_hosts: x.org}", "put brackets around it: ['x.org']"),
        (ONE + "media: {allow_hosts: ['http://x']}", "f:2:23: media.allow_hosts[0]: expected a"),
        (ONE + "server: {trusted_proxies: [x]}", "expected an IP address or network, got 'x'"),
        (ONE + "routing: {model_aliases: [a]}", "expected a mapping of strings to strings"),
        (ONE + "routing: {model_aliases: {on: x}}", "not usable as a key: YAML reads it as a"),
        (ONE + "routing: {model_aliases: {'${A}': x}}", "works in values, not in keys"),
        (ONE + "routing: {model_aliases: {a: 12:30}}", 'another number unless quoted; write "12:'),
        (ONE + "proxy: {total_timeout: 2024-01-01}", "got '2024-01-01'"),
        ("endpoints: []", "f:1:12: endpoints: expected a list of mappings, got an empty list"),
        ("endpoints: {url: x}", "expected a list of mappings, got a mapping"),
        ("endpoints: [x]", "f:1:13: endpoints[0]: expected a mapping, got text"),
        ("server: {}", "f:1:1: 'endpoints' is missing; write for example: endpoints: [{url"),
        ("- url: x", "f:1:1: expected a mapping, got a list; write for example: endpoints: [{url"),
        ("just text", "f:1:1: expected a mapping, got text"),
        ("", "f:1:1: the file is empty"),
        (endpoint("headers: [x]"), "f:3:10: endpoints[0].headers: expected a mapping of header"),
        (endpoint("headers: {X: [y]}"), "expected text or {file: /path/of/the/secret}, got a list"),
        (endpoint("headers: {X: {fil: /y}}"), "a value from a file is written {file:"),
        (endpoint("headers: {X: {file: [y]}}"), "f:3:21: endpoints[0].headers.X.file: expected"),
        (endpoint("headers: {X: {file: /no/such}}"), "'/no/such': cannot read it: No such file"),
        (endpoint("headers: {X: ''}"), "f:3:14: endpoints[0].headers.X: the value is empty"),
        (endpoint("headers: {Host: y}"), "belongs to the connection"),
        (endpoint("headers: {x-a: y, X-A: z}"), "f:3:24: endpoints[0].headers.X-A: the same head"),
    ],
)
def test_each_mistake_is_told_with_its_place(text: str, line: str) -> None:
    assert line in problem(text)


@pytest.mark.parametrize(
    "text",
    [
        endpoint("headers: {X: 'sek\x7frit'}"),
        endpoint("headers: {X: 'sekrit '}"),
        endpoint("headers: sekrit"),
        endpoint("headers: {X: &a sekrit, Y: {file: sekri, sekrit: }}"),
        endpoint("headers: {X: 'sekrit ${'}"),
        endpoint("headers: {X: '${A}\x7f'}"),
        endpoint("api_key: sekrit"),
        "endpoints: [{url: 'http://u:sekrit@gpu:1', name: a}]",
        "endpoints: [{url: 'u:sekrit@gpu:1', name: a}]",
        "endpoints: [{url: 'gpu:1/?key=sekrit', name: a}]",
        "endpoints: [{url: '${A}', name: a}]",
        "endpoints: [{url: 'http://gpu', name: '${A} '}]",
        "endpoints: [{url: 'http://a', name: '${A}'}, {url: 'http://b', name: '${A}'}]",
        ONE + "server: {port: '${A}'}",
        ONE + "logging: {level: '${A}'}",
        ONE + "routing: {model_aliases: {a: '${A}', sekri: '${A}', x: a}}",
        ONE + "routing: {model_aliases: {b: c, c: '${A}'}}",
    ],
)
def test_no_problem_shows_a_secret(text: str) -> None:
    for line in problems(text, {"A": "sekrit"}):
        assert "sekrit" not in line.replace("file: sekri, sekrit", "")


def test_a_header_value_may_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("k-1\n")

    config = load(endpoint('headers: {X-API-Key: {file: "${DIR}/key"}}'), DIR=str(tmp_path))

    assert config.endpoints[0].headers == {"X-API-Key": "k-1"}


def test_a_secret_file_with_more_than_one_line_is_refused(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("k-1\nX-Evil: yes\n")

    line = problem(endpoint(f"headers: {{X: {{file: {tmp_path}/key}}}}"))

    assert "the value has a line break" in line
    assert "Evil" not in line


def test_the_repr_of_a_configuration_shows_no_header_value() -> None:
    assert "k-1" not in repr(load(PAGE, SGLANG_API_KEY="k-1"))


def test_variables_work_in_values_of_every_kind() -> None:
    config = load(
        ONE + "server: {port: '${PORT}', shutdown_timeout: '${T:-1m}'}\n"
        "annotate: {json: '${JSON}'}\nmedia: {allow_hosts: ['${H}']}\n",
        PORT="8080",
        JSON="false",
        H="x.org",
    )

    assert (config.server.port, config.server.shutdown_timeout) == (8080, 60.0)
    assert not config.annotate.json
    assert config.media.allow_hosts == ("x.org",)


@pytest.mark.parametrize("value", ["a\nserver: {port: 1}", "a, name: b", "*x", "!!str a", "a: b"])
def test_a_variable_cannot_add_keys(value: str) -> None:
    line = problem("endpoints: [{url: 'http://gpu:1', name: '${A}'}]", {"A": value})

    assert line.startswith("f:1:41: endpoints[0].name: expected a name")


def test_a_variable_may_hold_what_yaml_would_take_for_something_else() -> None:
    config = load("endpoints: [{url: 'http://gpu:1', name: '${A}'}]", A="on")

    assert config.endpoints[0].name == "on"


def test_an_absent_file_is_named_and_shown_how_to_write() -> None:
    with pytest.raises(ConfigError) as caught:
        load_file("/no/such.yaml", {})

    [told] = caught.value.problems
    assert told.startswith("/no/such.yaml: no such file")
    assert told.endswith(EXAMPLE)


def test_the_example_for_an_absent_file_is_five_lines_that_load() -> None:
    assert load(EXAMPLE).endpoints[0].url == "http://127.0.0.1:30000"
    assert len(EXAMPLE.splitlines()) == 5


def test_a_file_is_read_with_or_without_a_byte_order_mark(tmp_path: Path) -> None:
    file = tmp_path / "ollad.yaml"
    for mark in (b"", b"\xef\xbb\xbf"):
        file.write_bytes(mark + ONE.encode())

        assert load_file(str(file), {}) == load(ONE)


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read it: Is a directory"):
        load_file(str(tmp_path), {})


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_told(tmp_path: Path) -> None:
    file = tmp_path / "ollad.yaml"
    file.touch(mode=0)

    with pytest.raises(ConfigError, match="cannot read it: Permission denied"):
        load_file(str(file), {})


def test_a_path_that_cannot_be_is_told() -> None:
    with pytest.raises(ConfigError, match="cannot read it"):
        load_file("a\x00b", {})


def test_a_file_that_is_not_utf8_is_told_with_the_place(tmp_path: Path) -> None:
    file = tmp_path / "ollad.yaml"
    file.write_bytes(b"endpoints:\n  - name: \xff\n")

    with pytest.raises(ConfigError) as caught:
        load_file(str(file), {})

    assert caught.value.problems == (f"{file}:2:11: not UTF-8 text; save the file as UTF-8",)


def test_an_endless_file_is_refused() -> None:
    with pytest.raises(ConfigError, match="more than 4 MiB"):
        load_file("/dev/zero", {})


def test_five_hundred_endpoints_load() -> None:
    text = "endpoints:\n" + "".join(
        PAGE.replace("endpoints:\n", "").replace("sglang-server", f"gpu-{number}")
        for number in range(500)
    )

    assert len(load(text, SGLANG_API_KEY="k").endpoints) == 500


KEYS = st.sampled_from(
    ["endpoints", "url", "name", "headers", "models", "include", "server", "port", "<<", "file"]
)
SCALARS = st.sampled_from(
    ["", "~", "yes", "5s", "'${A}'", "http://a", "12:30", "*x", "&x a", "!!int 5", "[]", "{}", "{"]
)
FLOW = st.recursive(
    SCALARS | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4).map(lambda items: f"[{', '.join(items)}]")
        | st.lists(st.tuples(KEYS, inner), max_size=4).map(
            lambda pairs: "{" + ", ".join(f"{key}: {value}" for key, value in pairs) + "}"
        )
    ),
)


@settings(deadline=None)
@given(
    st.one_of(st.text(), FLOW, FLOW.map(lambda flow: f"endpoints: [{flow}]"), FLOW.map(ONE.__add__))
)
def test_any_text_is_a_configuration_or_a_list_of_problems(text: str) -> None:
    try:
        load(text, A="b")
    except ConfigError as error:
        found = error.problems
    else:
        return
    assert found
    assert all(line.startswith("f:") and line.isprintable() for line in found)

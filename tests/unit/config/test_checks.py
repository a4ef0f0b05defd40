from __future__ import annotations

import pytest

from ollad.config.load import load_text
from ollad.errors import ConfigError

ONE = "endpoints: [{url: 'http://gpu:1', name: a}]\n"


def problems(text: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load_text(text, "f", {})
    return caught.value.problems


def endpoint(keys: str) -> str:
    return f"endpoints:\n- {{url: 'http://gpu:1', name: a,\n{keys}}}\n"


def test_a_timeout_longer_than_its_interval_is_refused() -> None:
    assert problems(endpoint("check_interval: 1s, check_timeout: 3s")) == (
        (
            "f:3:36: endpoints[0].check_timeout: a timeout of '3s' is longer than check_interval; "
            "make it at most '1s'"
        ),
    )


def test_an_interval_shorter_than_the_default_timeout_is_refused() -> None:
    [line] = problems(endpoint("check_interval: 1s"))

    assert "endpoints[0].check_timeout: a timeout of 2s is longer" in line


def test_a_timeout_as_long_as_its_interval_is_taken() -> None:
    load_text(endpoint("check_interval: 100ms, check_timeout: 100ms"), "f", {})


def test_a_hectic_interval_is_refused() -> None:
    assert problems(endpoint("check_interval: 99ms, check_timeout: 1ms")) == (
        "f:3:17: endpoints[0].check_interval: '99ms' is too short; write 100ms or more",
    )


def test_a_broken_interval_is_one_problem() -> None:
    [line] = problems(endpoint("check_interval: x, check_timeout: 9h"))

    assert "check_interval: expected a duration" in line


def test_two_sources_of_authorization_are_refused() -> None:
    [line] = problems(endpoint("forward_authorization: true, headers: {authorization: x}"))

    assert line.startswith("f:3:24: endpoints[0].forward_authorization: the client's")


def test_the_names_of_endpoints_are_unique() -> None:
    assert problems("endpoints: [{url: 'http://a', name: n}, {url: 'http://b', name: n}]") == (
        (
            "f:1:65: endpoints[1].name: 'n' is already the name of endpoints[0]; "
            "give each endpoint its own"
        ),
    )


def test_two_endpoints_may_have_the_same_url() -> None:
    config = load_text(
        "endpoints: [{url: 'http://a', name: m}, {url: 'http://a', name: n}]", "f", {}
    )

    assert len(config.endpoints) == 2


def test_an_alias_of_an_alias_is_refused_with_the_model_to_write() -> None:
    [line] = problems(ONE + "routing: {model_aliases: {a: b, b: c}}")

    assert line == ("f:2:30: routing.model_aliases.a: 'b' is itself an alias; write its model, 'c'")


def test_an_alias_of_itself_is_refused() -> None:
    [line] = problems(ONE + "routing: {model_aliases: {a: a}}")

    assert line.startswith("f:2:30: routing.model_aliases.a: an alias of itself")


def test_a_conversation_must_fit_into_the_store() -> None:
    [line] = problems(ONE + "conversations: {max_bytes: 1KiB}")

    assert line == (
        "f:2:16: conversations.max_conversation_bytes: 1MiB is more than max_bytes; "
        "make it at most '1KiB'"
    )


def test_all_bodies_together_may_not_be_less_than_one() -> None:
    assert problems(ONE + "server: {max_body_size: 8MiB, max_buffered_bytes: 4MiB}") == (
        (
            "f:2:51: server.max_buffered_bytes: '4MiB' is less than max_body_size; "
            "make it at least '8MiB'"
        ),
    )


def test_every_origin_is_named_alone() -> None:
    [line] = problems(ONE + 'server: {cors_origins: ["*", "https://a.example"]}')

    assert "'*' is every origin" in line


def test_operators_get_a_port_or_a_socket() -> None:
    assert "keep one of the two" in problems(ONE + "admin: {port: 1, socket: /run/x}")[0]
    assert "needs a port" in problems(ONE + "admin: {host: 192.0.2.1}")[0]
    load_text(ONE + "admin: {host: 192.0.2.1, port: 1}", "f", {})
    load_text(ONE + "admin: {socket: /run/x}", "f", {})

"""Which model a request is for, and what a request's headers tell before its body is read."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import HttpVersion10, HttpVersion11
from aiohttp.test_utils import make_mocked_request

from ollad.backends.pool import Pool
from ollad.backends.snapshot import State
from ollad.config.schema import Config, Routing, Server
from ollad.errors import BadRequestError, NotFoundError, UnavailableError
from ollad.gateway import Runtime
from ollad.headers import TrustedProxies
from ollad.intake import fresh_rid, inbound_of, read_body
from ollad.model_choice import resolve_model
from ollad.record import RECORD
from tests.unit.builders import card, make_backend, make_record

if TYPE_CHECKING:
    from aiohttp import web

    from ollad.backends.backend import Backend


def runtime(*backends: Backend, trusted: tuple[str, ...] = (), **aliases: str) -> Runtime:
    return Runtime(
        Config(endpoints=(), routing=Routing(model_aliases=aliases)),
        Pool(backends),
        TrustedProxies(trusted),
    )


def request(headers: dict[str, str] | None = None, **options: Any) -> web.Request:
    made = make_mocked_request("POST", "/", headers=headers or {}, **options)
    made[RECORD] = make_record(model=None)
    return made


LORA = make_backend("lora", models=("base", card("poet", parent="base")))


@pytest.mark.parametrize(
    ("body", "header", "model", "spliced", "shown"),
    [
        ("base", None, "base", None, "base"),
        ("base", "other", "base", None, "base"),
        (None, None, "base", None, "base"),
        ("", None, "base", None, "base"),
        ("default", None, "base", None, "default"),
        (None, "base", "base", None, "base"),
        (None, "default", "base", None, "default"),
        ("default", "base", "base", "base", "base"),
        ("poet", None, "poet", None, "poet"),
        ("base:poet", None, "poet", None, "base:poet"),
        ("small", None, "base", "base", "small"),
        (None, "small", "base", None, "small"),
        ("verse", None, "poet", "base:poet", "verse"),
    ],
)
def test_a_model_is_found_by_every_name_it_has(
    body: str | None, header: str | None, model: str, spliced: str | None, shown: str
) -> None:
    made = request({"X-Olla-Model": header} if header else {})
    found = resolve_model(
        made[RECORD],
        made.headers,
        runtime(LORA, small="base", verse="base:poet"),
        {"model": body} if body else {},
    )
    assert found == (model, spliced)
    assert made[RECORD].model == shown
    assert made[RECORD].served_model == model


@pytest.mark.parametrize("name", ["Base", "base ", "base:", ":poet", "base:base", "poet:base", "*"])
def test_a_name_that_is_only_like_one_is_unknown(name: str) -> None:
    with pytest.raises(NotFoundError) as caught:
        resolve_model(make_record(model=None), {}, runtime(LORA), {"model": name})
    assert "base, poet" in caught.value.message


def test_a_backend_with_nothing_but_adapters_asks_which() -> None:
    backend = make_backend(models=(card("a", parent="x"), card("b", parent="x")))
    with pytest.raises(BadRequestError, match="one of: a, b"):
        resolve_model(make_record(model=None), {}, runtime(backend), {})


def test_a_model_whose_backends_are_out_is_unavailable_by_all_its_names() -> None:
    down = make_backend("d", models=("gone", card("poet", parent="gone")), state=State.DOWN)
    for name in ("gone", "gone:poet", "was"):
        with pytest.raises(UnavailableError, match="out at the moment"):
            resolve_model(
                make_record(model=None), {}, runtime(LORA, down, was="gone"), {"model": name}
            )


def test_without_any_backend_nothing_is_said_about_the_model() -> None:
    with pytest.raises(UnavailableError, match="No backend is up"):
        resolve_model(
            make_record(model=None), {}, runtime(make_backend(state=State.STARTING)), {"model": "x"}
        )


def test_a_long_list_of_models_is_cut() -> None:
    backend = make_backend(models=tuple(f"m{number:03}" for number in range(50)))
    for document in ({}, {"model": "x"}):
        with pytest.raises((BadRequestError, NotFoundError), match=r"m019 and 30 more\."):
            resolve_model(make_record(model=None), {}, runtime(backend), document)


def test_rids_are_of_one_length_and_never_the_same() -> None:
    rids = {fresh_rid() for _ in range(100)}
    assert len(rids) == 100
    assert {len(rid) for rid in rids} == {32}


@pytest.mark.parametrize(("trusted", "believed"), [((), False), (("192.0.2.0/24",), True)])
def test_only_a_trusted_peer_is_believed(trusted: tuple[str, ...], believed: bool) -> None:
    made = request({"Host": "ollad.example"})
    made[RECORD] = make_record(client="198.51.100.1", peer="192.0.2.7", scheme="https")
    inbound = inbound_of(made, runtime(trusted=trusted))
    assert inbound.trusted is believed
    assert (inbound.peer, inbound.host, inbound.scheme) == ("192.0.2.7", "ollad.example", "https")
    assert (b"Host", b"ollad.example") in inbound.headers


class Body:
    """A request body that arrives in pieces."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = pieces

    def is_eof(self) -> bool:
        return False

    async def iter_any(self) -> Any:
        for piece in self._pieces:
            yield piece


@pytest.mark.parametrize(
    ("expectation", "version", "told"),
    [
        ("100-continue", HttpVersion11, True),
        ("100-Continue ", HttpVersion11, True),
        ("100-continue", HttpVersion10, False),
        ("other", HttpVersion11, False),
        (None, HttpVersion11, False),
    ],
)
async def test_only_who_waits_is_told_to_go_on(
    expectation: str | None, version: Any, told: bool
) -> None:
    written: list[bytes] = []
    transport: Any = SimpleNamespace(
        write=written.append, is_closing=lambda: False, get_extra_info=lambda *_: None
    )
    made = request(
        {"Expect": expectation} if expectation else {},
        version=version,
        payload=Body(b"ab", b"c"),
        transport=transport,
    )
    assert await read_body(made, Server(max_body_size=3)) == b"abc"
    assert made[RECORD].request_bytes == 3
    assert written == ([b"HTTP/1.1 100 Continue\r\n\r\n"] if told else [])

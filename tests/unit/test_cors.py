"""What browsers are told."""

from __future__ import annotations

from ollad.announcement import announcement
from ollad.cors import Cors
from tests.unit.builders import make_record

APP = "https://app.example"
VARY = ("Vary", "Origin")


def told(cors: Cors, origin: str | None) -> dict[str, str]:
    headers = cors.headers(origin)
    assert len(dict(headers)) == len(headers)
    return dict(headers)


def test_nothing_is_allowed_by_default() -> None:
    cors = Cors(())
    assert not cors.enabled
    assert cors.preflight(APP, "POST", None) == ()


def test_an_allowed_origin_is_told_so_and_may_read_what_ollad_says() -> None:
    headers = told(Cors((APP,)), APP)

    assert headers["Access-Control-Allow-Origin"] == APP
    exposed = headers["Access-Control-Expose-Headers"].split(", ")
    record = make_record(
        endpoint="a", model="m", cache_hit="true", spec_decode="true", ignored_parameters=("x",)
    )
    assert {name for name, _ in announcement(record, 1.0)} <= set(exposed)
    assert headers["Vary"] == "Origin"


def test_another_origin_is_told_nothing_but_caches_are() -> None:
    cors = Cors((APP,))
    for origin in (None, "", "null", "https://app.example.evil.example", "http://app.example", "*"):
        assert cors.headers(origin) == (VARY,)
        assert cors.preflight(origin, "POST", None) == ()


def test_every_origin_is_a_star_and_never_an_echo() -> None:
    cors = Cors(("*",))

    assert told(cors, APP)["Access-Control-Allow-Origin"] == "*"
    assert dict(cors.preflight(APP, "POST", None))["Access-Control-Allow-Origin"] == "*"


def test_credentials_are_never_allowed() -> None:
    for cors in (Cors((APP,)), Cors(("*",))):
        answers = (*cors.headers(APP), *cors.preflight(APP, "POST", "authorization"))
        assert not any("credentials" in name.lower() for name, _ in answers)


def test_a_preflight_is_granted_the_headers_it_asks_for() -> None:
    answer = dict(Cors((APP,)).preflight(APP, "POST", "authorization, x-stainless-os"))

    assert answer["Access-Control-Allow-Origin"] == APP
    assert answer["Access-Control-Allow-Headers"] == "authorization, x-stainless-os"
    assert "POST" in answer["Access-Control-Allow-Methods"]
    assert "Origin" in answer["Vary"]


def test_what_is_no_list_of_headers_is_not_echoed() -> None:
    for names in ("a\r\nSet-Cookie: b", "a: b", "x" * 2000, "", "\udcff"):
        answer = dict(Cors((APP,)).preflight(APP, "POST", names))
        assert answer["Access-Control-Allow-Headers"] == "Authorization, Content-Type, X-API-Key"


def test_options_without_a_method_asked_for_is_no_preflight() -> None:
    assert Cors((APP,)).preflight(APP, None, None) == ()
    assert Cors(("*",)).preflight(None, "POST", None) == ()

"""What a reload changes."""

from __future__ import annotations

from dataclasses import replace

from ollad.config.diff import compare
from ollad.config.schema import Batch, Config, Endpoint, Logging, Server, ServerTls

A = Endpoint(url="http://a", name="a")
B = Endpoint(url="http://b", name="b")
CONFIG = Config(endpoints=(A, B))


def test_equal_configurations_change_nothing() -> None:
    change = compare(CONFIG, Config(endpoints=(A, B)))
    assert change.describe() == ()
    assert change.config == CONFIG


def test_endpoints_are_known_by_their_names() -> None:
    moved = replace(B, url="http://elsewhere")
    change = compare(CONFIG, Config(endpoints=(moved, Endpoint(url="http://c", name="c"))))
    assert (change.added, change.removed, change.changed) == (("c",), ("a",), ("b",))


def test_the_order_of_endpoints_is_no_change() -> None:
    assert compare(CONFIG, Config(endpoints=(B, A))).describe() == ()


def test_sections_that_differ_are_named() -> None:
    assert compare(CONFIG, replace(CONFIG, batch=Batch(max_items=1))).sections == ("batch",)


def test_keys_read_at_the_start_keep_their_value_and_are_named() -> None:
    new = replace(
        CONFIG,
        server=Server(port=1, max_body_size=5),
        logging=Logging(level="debug", access=False),
    )
    change = compare(CONFIG, new)
    assert change.restart == ("server.port", "logging.level", "logging.access")
    assert change.config.server == Server(max_body_size=5)
    assert change.config.logging == Logging()
    assert change.sections == ("server",)


def test_certificates_change_with_a_reload_but_tls_itself_does_not() -> None:
    one = replace(CONFIG, server=Server(tls=ServerTls("/one.pem", "/one.key")))
    two = replace(CONFIG, server=Server(tls=ServerTls("/two.pem", "/two.key")))

    assert compare(one, two).restart == ()
    assert compare(one, two).config == two
    for before, after in ((one, CONFIG), (CONFIG, one)):
        assert compare(before, after).restart == ("server.tls",)
        assert compare(before, after).config.server.tls == before.server.tls

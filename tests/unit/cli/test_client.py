from __future__ import annotations

import argparse
import errno
from typing import TYPE_CHECKING

import aiohttp
import pytest
import trustme
from aiohttp.client_reqrep import ConnectionKey
from yarl import URL

from ollad.cli.client import AnswerError, add_url_options, explain, message_of

if TYPE_CHECKING:
    from pathlib import Path

KEY = ConnectionKey("ollad.example", 1, is_ssl=False, ssl=True, proxy=None, proxy_auth=None,
                    proxy_headers_hash=None, server_hostname=None)  # fmt: skip
HOME = URL("http://user:secret@ollad.example:1/")


def parse(text: str) -> URL:
    parser = argparse.ArgumentParser()
    add_url_options(parser)
    url = parser.parse_args(["--url", text]).url
    assert isinstance(url, URL)
    return url


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("gpu.example:40114", "http://gpu.example:40114"),
        ("https://gpu.example/behind/", "https://gpu.example/behind/"),
        ("http://[::1]:40114?x=1#y", "http://[::1]:40114"),
    ],
)
def test_a_url_may_lack_its_scheme(text: str, url: str) -> None:
    assert parse(text) == URL(url)


@pytest.mark.parametrize("text", ["", "ftp://x", "http://", "http://x:port", "http://x:99999"])
def test_what_is_no_url_is_a_mistake_of_usage(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(text)
    assert caught.value.code == 2
    assert f"'{text}' is no" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing.pem", "No such file or directory"),
        ("empty.pem", "holds no certificate"),
        ("junk.pem", "holds no certificate"),
        ("key.pem", "holds no certificate"),
        (".", "Is a directory"),
        ("nul\0.pem", "not a path"),
    ],
)
def test_what_holds_no_certificate_is_a_mistake_of_usage(
    name: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.pem").touch()
    (tmp_path / "junk.pem").write_text("this is no PEM\n")
    identity = trustme.CA().issue_cert("ollad.example")
    identity.private_key_pem.write_to_path(tmp_path / "key.pem")
    parser = argparse.ArgumentParser()
    add_url_options(parser)
    with pytest.raises(SystemExit) as caught:
        parser.parse_args(["--ca", f"{tmp_path}/{name}"])
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert name in said
    assert reason in said


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"error": {"message": "No such model.", "code": 1}}, "No such model."),
        ({"object": "error", "message": "too long"}, "too long"),
        ({"detail": "Not Found"}, "Not Found"),
        ({"error": "plain"}, "plain"),
        ({"error": None}, '{"error": null}'),
        ([1], "[1]"),
        ({"message": "two\nlines\x1b[2J"}, "two lines [2J"),
    ],
)
def test_the_message_of_an_error_is_found_and_fits_a_line(document: object, message: str) -> None:
    assert message_of(document) == message


REFUSED = aiohttp.ClientConnectorError(KEY, OSError(errno.ECONNREFUSED, "Connect call failed"))


@pytest.mark.parametrize(
    ("error", "code", "part"),
    [
        (REFUSED, 69, "Connection refused"),
        (aiohttp.ClientConnectorDNSError(KEY, OSError(-2, "Name unknown")), 69, "Name unknown"),
        (aiohttp.ConnectionTimeoutError(), 69, "does not answer"),
        (aiohttp.SocketTimeoutError(), 1, "stopped answering"),
        (aiohttp.ServerDisconnectedError(), 1, "closed the connection"),
        (aiohttp.ClientPayloadError(), 1, "closed the connection"),
        (AnswerError("it said no"), 1, "it said no"),
        (ValueError(), 1, "cannot be read: ValueError"),
    ],
)
def test_every_failure_is_one_line_with_an_honest_exit_code(
    error: Exception, code: int, part: str
) -> None:
    message, exit_code = explain(error, HOME)
    assert exit_code == code
    assert part in message
    assert "\n" not in message
    assert "secret" not in message

"""Certificates are tried when the configuration is read."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import pytest
import trustme
from cryptography.hazmat.primitives import serialization as form

from ollad.config.certificates import client_context, server_context
from ollad.config.load import load_text
from ollad.config.schema import EndpointTls
from ollad.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    for name in ("one", "two"):
        identity = authority.issue_cert(f"{name}.example")
        identity.cert_chain_pems[0].write_to_path(folder / f"{name}.pem")
        identity.private_key_pem.write_to_path(folder / f"{name}.key")
    (folder / "junk.pem").write_text("this is no PEM\n")
    return folder


def problems(endpoint: str = "", server: str = "", url: str = "https://a") -> str:
    text = f'endpoints: [{{url: "{url}", name: a{endpoint}}}]\nserver: {{port: 1{server}}}\n'
    with pytest.raises(ConfigError) as caught:
        load_text(text, "f", {})
    return str(caught.value)


def test_a_server_takes_tls_1_2_and_later_and_speaks_http_1_1(files: Path) -> None:
    context = server_context(f"{files}/one.pem", f"{files}/one.key")

    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.verify_mode == ssl.CERT_NONE


def test_a_backend_is_always_verified(files: Path) -> None:
    identity = EndpointTls(f"{files}/ca.pem", f"{files}/one.pem", f"{files}/one.key")
    for tls in (EndpointTls(), EndpointTls(ca_file=f"{files}/ca.pem"), identity):
        context = client_context(tls)
        assert context.check_hostname
        assert context.verify_mode == ssl.CERT_REQUIRED
    (authority,) = client_context(identity).get_ca_certs()
    assert authority["subject"] == trustme_subject(files)


def trustme_subject(files: Path) -> object:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(f"{files}/ca.pem")
    return context.get_ca_certs()[0]["subject"]


@pytest.mark.parametrize(
    ("cert", "key", "reason"),
    [
        ("one.pem", "two.key", "the key is not that of the certificate"),
        ("junk.pem", "one.key", "no certificate and private key in PEM"),
        ("one.pem", "junk.pem", "no certificate and private key in PEM"),
        ("absent.pem", "one.key", "absent.pem': No such file or directory"),
        ("one.pem", "absent.key", "absent.key': No such file or directory"),
    ],
)
def test_files_that_cannot_be_used_are_a_problem_of_the_configuration(
    cert: str, key: str, reason: str, files: Path
) -> None:
    pair = f"{{cert_file: {files}/{cert}, key_file: {files}/{key}}}"

    assert "f:2:24: server.tls: " in problems(server=f", tls: {pair}")
    assert reason in problems(server=f", tls: {pair}")
    assert reason in problems(f", tls: {pair}")
    assert "f:1:" in problems(f", tls: {pair}")


def test_an_encrypted_key_is_refused_and_nobody_is_asked_for_a_password(files: Path) -> None:
    key = form.load_pem_private_key((files / "one.key").read_bytes(), None)
    (files / "locked.key").write_bytes(
        key.private_bytes(
            form.Encoding.PEM, form.PrivateFormat.PKCS8, form.BestAvailableEncryption(b"sesame")
        )
    )

    tls = f"{{cert_file: {files}/one.pem, key_file: {files}/locked.key}}"
    assert "without a password" in problems(server=f", tls: {tls}")


def test_authorities_that_cannot_be_read_are_named(files: Path) -> None:
    assert "absent.pem': No such file" in problems(f", tls: {{ca_file: {files}/absent.pem}}")
    assert "junk.pem': no certificate" in problems(f", tls: {{ca_file: {files}/junk.pem}}")


def test_certificate_and_key_go_together(files: Path) -> None:
    one = f"cert_file: {files}/one.pem"
    assert "server.tls.cert_file: it needs a key_file" in problems(server=f", tls: {{{one}}}")
    assert "endpoints[0].tls.cert_file: it needs a key_file" in problems(f", tls: {{{one}}}")
    key = f"key_file: {files}/one.key"
    assert "server.tls.key_file: it needs a cert_file" in problems(server=f", tls: {{{key}}}")


def test_tls_for_a_backend_without_tls_is_a_problem(files: Path) -> None:
    told = problems(f", tls: {{ca_file: {files}/ca.pem}}", url="http://a")

    assert "endpoints[0].tls: the url begins with http://" in told

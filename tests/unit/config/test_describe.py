from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trustme
import yaml

from ollad.config.describe import markdown, redacted, sections
from ollad.config.load import load_file, load_text
from ollad.config.schema import ApiKey, Auth, Config, Endpoint

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[3]
MANUAL = (ROOT / "docs/configuration.md").read_text()
SAMPLE = (ROOT / "etc/ollad.yaml").read_text()


def keys(node: Any, path: str = "") -> Iterator[str]:
    """Every key path of a parsed file, written as the schema writes them."""
    if isinstance(node, list):
        for item in node:
            yield from keys(item, f"{path}[]")
    elif isinstance(node, dict):
        for name, value in node.items():
            child = f"{path}.{name}" if path else name
            yield child
            yield from keys(value, child)


def schema_keys() -> set[str]:
    return {
        f"{path}.{field.name}" if path else field.name
        for path, section in sections()
        for field in dataclasses.fields(section)
    }


def uncommented(sample: str) -> str:
    """The sample with its commented keys taken in; prose has exactly one space after its '#'."""
    return re.sub(r"^( *)#(?! \S)", r"\1", sample, flags=re.MULTILINE)


def test_every_key_has_a_sentence() -> None:
    for path, section in sections():
        for field in dataclasses.fields(section):
            assert field.metadata["doc"].endswith("."), f"{path}.{field.name}"


def test_the_manual_ends_with_the_reference_made_from_the_schema() -> None:
    assert MANUAL.endswith("## Every key\n\n" + markdown()), (
        "put the output of ollad.config.describe.markdown() at the end of docs/configuration.md"
    )


def test_the_reference_names_every_key() -> None:
    for path, section in sections():
        for field in dataclasses.fields(section):
            assert f"`{field.name}`" in markdown() or f"### `{field.name}" in markdown(), path


@pytest.mark.parametrize("example", re.findall(r"```yaml\n(.*?)```", MANUAL, re.DOTALL))
def test_every_example_in_the_manual_loads(example: str, tmp_path: Path) -> None:
    (tmp_path / "secret_sglang").write_text("k-1\n")
    (tmp_path / "secret_bob").write_text("0123456789abcdef\n")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    identity = authority.issue_cert("ollad.example")
    identity.private_key_and_cert_chain_pem.write_to_path(tmp_path / "ollad.pem")
    identity.private_key_pem.write_to_path(tmp_path / "ollad.key")
    for folder in ("/run/credentials/ollad.service", "/etc/ollad/tls"):
        example = example.replace(folder, str(tmp_path))

    environ = {"SGLANG_API_KEY": "k", "ALICE_KEY": "fedcba9876543210"}
    assert load_text(example, "f", environ).endpoints


def test_the_problems_in_the_manual_are_the_real_ones() -> None:
    text = "endpoints:\n  - url: 'http://a'\n    name: a\n    prority: 9\n    check_interval: 5\n"
    with pytest.raises(Exception, match="prority") as caught:
        load_text(text, "ollad.yaml", {})

    assert str(caught.value) in MANUAL


def test_the_sample_loads_as_it_is_and_holds_nothing_but_defaults() -> None:
    assert load_file(str(ROOT / "etc/ollad.yaml"), {}) == Config(
        endpoints=(Endpoint(url="http://127.0.0.1:30000", name="sglang-0"),)
    )


def without_default() -> set[str]:
    """Optional keys that have no default, so that the sample can only tell of them."""
    optional = {
        f"{path}.{field.name}"
        for path, section in sections()
        for field in dataclasses.fields(section)
        if field.default is None or path == "auth.keys[]"
    }
    return optional | {"server.tls"}


def test_the_sample_shows_every_key() -> None:
    shown = set(keys(yaml.safe_load(uncommented(SAMPLE))))

    assert shown == schema_keys() - without_default()
    for path in without_default():
        assert re.search(rf"^ *#.*\b{path.rpartition('.')[2]}:", SAMPLE, re.MULTILINE), path


def test_the_commented_keys_of_the_sample_are_the_defaults() -> None:
    assert load_text(uncommented(SAMPLE), "f", {}) == load_text(SAMPLE, "f", {})


def test_a_dump_hides_header_values_and_what_a_url_may_hide() -> None:
    config = Config(
        endpoints=(
            Endpoint(url="http://u:sekrit@gpu/?k=sekrit", name="a", headers={"X-Key": "sekrit"}),
        )
    )

    dump = redacted(config)

    assert "sekrit" not in json.dumps(dump)
    assert dump["endpoints"][0]["headers"] == {"X-Key": "***"}
    assert dump["endpoints"][0]["url"] == "http://***@gpu/?***"


def test_a_dump_hides_keys_and_their_hashes() -> None:
    secrets: dict[str, Any] = {way: f"sekrit-{way}" for way in ("key", "key_file", "sha256")}
    config = Config(
        endpoints=(Endpoint(url="http://gpu", name="a"),),
        auth=Auth(keys=tuple(ApiKey(name=way, **{way: value}) for way, value in secrets.items())),
    )

    dump = redacted(config)["auth"]["keys"]

    assert "sekrit" not in json.dumps(dump)
    assert "sekrit" not in repr(config)
    assert [key[key["name"]] for key in dump] == ["***"] * 3


def test_a_dump_is_a_configuration_again() -> None:
    text = """\
endpoints:
  - {url: "http://a:1/base", name: a, check_interval: 1500ms, check_timeout: 1s}
  - {url: "http://b", name: "2024", models: {include: ["*"]}, headers: {X: "***"}}
server: {max_body_size: 10MB, trusted_proxies: ["::1"]}
routing: {model_aliases: {"on": "no"}}
"""
    config = load_text(text, "f", {})

    assert load_text(yaml.safe_dump(redacted(config)), "f", {}) == config

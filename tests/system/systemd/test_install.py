"""``make install`` into a staging folder; that needs neither root nor systemd."""

from __future__ import annotations

import os
import re
import shlex
import stat
import subprocess
from typing import TYPE_CHECKING

import pytest

import ollad
from tests.system.systemd.package import make, system_python

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def python() -> str:
    found = system_python()
    if found is None:
        pytest.skip("needs a Python 3.11 or later with venv outside of home directories")
    return found


@pytest.fixture(scope="module")
def staged(python: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("staged")
    before = os.umask(0o077)
    try:
        make("install", f"DESTDIR={root}", f"PYTHON={python}")
    finally:
        os.umask(before)
    return root


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_everything_is_below_the_prefix_but_configuration_and_unit(staged: Path) -> None:
    outside = {name for name in files(staged) if not name.startswith("usr/local/")}
    assert outside == {
        "etc/ollad/ollad.yaml",
        "etc/systemd/system/ollad.service",
        "etc/systemd/system/ollad.socket",
        "etc/sysusers.d/ollad.conf",
    }


def test_it_is_there_for_everybody_whatever_the_umask(staged: Path) -> None:
    for path in staged.rglob("*"):
        mode = stat.S_IMODE(path.stat().st_mode)
        if path == staged / "etc/ollad/credentials":
            assert mode == 0o700
        elif path.is_dir() or path == staged / "usr/local/bin/ollad":
            assert mode == 0o755, path
        elif path == staged / "etc/ollad/ollad.yaml":
            assert mode == 0o640
        else:
            assert mode & 0o444 == 0o444, path
            assert not mode & 0o022, path


def test_no_file_names_the_staging_folder(staged: Path) -> None:
    told = [path for path in staged.rglob("*") if path.is_file() and _names(path, staged)]
    assert told == []


def _names(path: Path, folder: Path) -> bool:
    return str(folder).encode() in path.read_bytes()


def test_the_unit_starts_what_was_installed(staged: Path) -> None:
    unit = (staged / "etc/systemd/system/ollad.service").read_text()
    assert "@" not in re.sub(r"@(system-service|privileged|resources)\b", "", unit)
    command = shlex.split(next(line for line in unit.splitlines() if line.startswith("ExecStart=")))
    assert command == [
        *("ExecStart=/usr/local/bin/ollad", "serve"),
        *("--config", "/etc/ollad/ollad.yaml"),
    ]


def test_the_socket_has_the_address_and_the_name_that_ollad_expects(staged: Path) -> None:
    unit = (staged / "etc/systemd/system/ollad.socket").read_text()
    assert "@" not in unit
    assert "\nListenStream=127.0.0.1:40114\n" in unit
    assert "\nFileDescriptorName=proxy\n" in unit


def test_the_manual_and_the_completions_are_of_this_version(staged: Path) -> None:
    share = staged / "usr/local/share"
    version = f'"ollad {ollad.__version__}"'
    assert version in (share / "man/man8/ollad.8").read_text()
    assert version in (share / "man/man5/ollad.yaml.5").read_text()
    assert "backend" in (share / "bash-completion/completions/ollad").read_text()
    assert "#compdef ollad" in (share / "zsh/site-functions/_ollad").read_text()


def test_what_was_installed_runs_with_its_own_libraries_alone(staged: Path, python: str) -> None:
    tree = staged / "usr/local/lib/ollad"
    program = (
        f"import sys; sys.path.insert(0, {str(tree)!r}); import aiohttp, ollad, uvloop, yaml;"
        " print(aiohttp.__file__, ollad.__file__, uvloop.__file__, yaml.__file__, sep='\\n')"
    )
    done = subprocess.run(
        [python, "-I", "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert [line for line in done.stdout.split() if not line.startswith(str(tree))] == []


def test_its_byte_code_is_used(staged: Path) -> None:
    tree = staged / "usr/local/lib/ollad"
    sources = {path for path in tree.rglob("*.py") if path.is_relative_to(tree / "ollad")}
    compiled = {
        path.parents[1] / f"{path.name.partition('.')[0]}.py" for path in tree.rglob("*.pyc")
    }
    assert sources <= compiled


def test_installing_again_takes_stale_files_away_and_keeps_the_configuration(
    staged: Path, python: str
) -> None:
    before = files(staged)
    stale = staged / "usr/local/lib/ollad/ollad/stale.py"
    stale.write_text("")
    config = staged / "etc/ollad/ollad.yaml"
    config.write_text("endpoints: []\n")
    make("install", f"DESTDIR={staged}", f"PYTHON={python}")
    assert files(staged) == before
    assert config.read_text() == "endpoints: []\n"


def test_uninstalling_leaves_the_configuration_alone(staged: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    subprocess.run(["cp", "-a", str(staged), str(root)], check=True)
    make("uninstall", f"DESTDIR={root}")
    assert files(root) == {"etc/ollad/ollad.yaml"}


def test_a_python_that_the_service_cannot_see_is_refused(tmp_path: Path) -> None:
    python = tmp_path / "python3"
    python.write_text("#!/bin/sh\necho /root/bin/python3.11\n")
    python.chmod(0o755)
    with pytest.raises(AssertionError, match=r"could not run /root/bin/python3\.11"):
        make("install", f"DESTDIR={tmp_path / 'root'}", f"PYTHON={python}")
    assert not (tmp_path / "root").exists()

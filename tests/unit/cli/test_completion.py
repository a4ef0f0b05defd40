from __future__ import annotations

import shlex
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from ollad.cli.completion import completion, main

if TYPE_CHECKING:
    from pathlib import Path

COMPLETE = """
source {script}
COMP_WORDS=({words})
COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
$(complete -p ollad | sed 's/.*-F \\([^ ]*\\).*/\\1/')
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = tmp_path_factory.mktemp("completions")
    assert main(made) == 0
    return made


def offered(folder: Path, *words: str) -> set[str]:
    """What bash offers for the last word."""
    program = COMPLETE.format(script=folder / "ollad", words=shlex.join(words))
    done = subprocess.run(
        ["/bin/bash", "-c", program], check=True, capture_output=True, text=True, timeout=30
    )
    assert done.stderr == ""
    return set(done.stdout.split())


def test_bash_completes_commands(folder: Path) -> None:
    assert offered(folder, "ollad", "re") == {"reload"}
    assert offered(folder, "ollad", "backend", "") == {"drain", "enable"}


def test_bash_completes_options_of_the_command_alone(folder: Path) -> None:
    assert offered(folder, "ollad", "serve", "--p") == {"--port"}
    assert "--wait" in offered(folder, "ollad", "backend", "drain", "--")
    assert "--wait" not in offered(folder, "ollad", "backend", "enable", "--")


@pytest.mark.parametrize("option", ["--config", "--control"])
def test_bash_completes_files(folder: Path, option: str) -> None:
    begun = str(folder / "oll")
    assert offered(folder, "ollad", "reload", option, begun) == {str(folder / "ollad")}


def test_zsh_takes_its_script(folder: Path) -> None:
    script = folder / "_ollad"
    assert script.read_text().startswith("#compdef ollad\n")
    zsh = shutil.which("zsh")
    if zsh is None:
        pytest.skip("needs zsh")
    subprocess.run([zsh, "-n", str(script)], check=True, timeout=30)


def test_the_defaults_shown_are_not_those_of_who_builds_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (folder / "ollad").read_text() == completion("bash")
    monkeypatch.setenv("RUNTIME_DIRECTORY", "/run/builder")
    main(folder)
    assert "builder" not in (folder / "_ollad").read_text()

"""SGLang's own Python client, unmodified, through ollad."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.system import rig

if TYPE_CHECKING:
    from tests.system.daemon import Ollad
    from tests.system.rig import Server


def run_client(url: str) -> Any:
    """What ``sglang_cpu/client.py`` prints."""
    done = subprocess.run(
        [str(rig.python()), str(rig.SCRIPTS / "client.py"), url],
        env=rig.client_environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.strip().rpartition("\n")[2])


@pytest.fixture(scope="module", autouse=True)
def _client_is_installed() -> None:
    try:
        rig.set_up()
    except rig.RigUnavailableError as missing:
        pytest.skip(f"no SGLang client on this machine: {missing}")


def test_a_program_gives_what_it_gives_without_ollad(
    ollad: Ollad, generative: tuple[Server, ...]
) -> None:
    through, direct = run_client(ollad.api), run_client(generative[0].url)
    for key in ("model", "answer", "more", "batch", "choice"):
        assert through[key] == direct[key]
    assert "".join(through["pieces"]) == through["answer"] != ""
    assert len(through["pieces"]) > 1
    assert through["meta"]["completion_tokens"] == direct["meta"]["completion_tokens"]

"""SGLang's own Python client, unmodified, through ollad."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.system import rig
from tests.system.curl import curl

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


def test_a_program_in_the_frontend_language_runs(
    ollad: Ollad, generative: tuple[Server, ...]
) -> None:
    result = run_client(ollad.api)
    assert result["model"] == curl(f"{generative[0].url}/model_info").json()["model_path"]
    assert result["answer"]
    assert result["more"]
    assert 1 <= result["meta"]["completion_tokens"] <= 12
    assert "".join(result["pieces"])  # how many there are is the client's to say
    assert len(result["batch"]) == 4
    assert all(result["batch"])
    assert result["choice"] in {"yes", "no"}

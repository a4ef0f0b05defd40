"""``ollad check`` and ``--version`` as an operator calls them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.system.daemon import endpoint, running_ollad

if TYPE_CHECKING:
    from pathlib import Path

    from tests.system.daemon import Ollad
    from tests.system.rig import Server

PAGE_CONFIGURATION = """\
endpoints:
  - url: "http://192.168.0.100:30000"
    name: "sglang-server"
    type: "sglang"
    priority: 90
    model_url: "/v1/models"
    health_check_url: "/health"
    check_interval: 5s
    check_timeout: 2s
    headers:
      X-API-Key: "${SGLANG_API_KEY}"
"""


def run_ollad(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ollad", *arguments],
        env={**os.environ, "SGLANG_API_KEY": "sesame-of-the-test"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_configuration_of_the_page_is_valid_as_it_stands(tmp_path: Path) -> None:
    file = tmp_path / "ollad.yaml"
    file.write_text(PAGE_CONFIGURATION)
    done = run_ollad("check", "--config", str(file))
    assert done.returncode == 0, done.stderr
    assert "sesame-of-the-test" not in done.stdout + done.stderr


def test_the_configuration_of_the_page_serves(
    tmp_path: Path, generative: tuple[Server, ...], ollad: Ollad
) -> None:
    file = tmp_path / "ollad.yaml"
    file.write_text(PAGE_CONFIGURATION.replace("http://192.168.0.100:30000", generative[0].url))
    done = run_ollad("check", "--live", "--config", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    page_member = {
        "priority": 90,
        "model_url": "/v1/models",
        "health_check_url": "/health",
        "check_interval": "5s",
        "check_timeout": "2s",
        "headers": {"X-API-Key": "sesame-of-the-test"},
    }
    with running_ollad([endpoint(generative[0], **page_member)], tmp_path / "serve") as daemon:
        assert "sesame-of-the-test" not in daemon.log.read_text()
    assert ollad.log.exists()


def test_a_misspelled_key_is_named_with_its_place_and_the_right_one(tmp_path: Path) -> None:
    file = tmp_path / "ollad.yaml"
    file.write_text(PAGE_CONFIGURATION.replace("priority: 90", "priorty: 90"))
    done = run_ollad("check", "--config", str(file))
    assert done.returncode == 78
    said = done.stdout + done.stderr
    for part in ("ollad.yaml", "5", "priorty", "priority"):
        assert part in said


def test_the_version_is_told() -> None:
    done = run_ollad("--version")
    assert done.returncode == 0
    assert re.search(r"\d+\.\d+", done.stdout)

"""What ``etc/compile.py`` compiles, and what it does where it cannot."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import ollad

ROOT = Path(ollad.__file__).parents[1]
PROGRAM = ROOT / "etc/compile.py"


def test_every_module_that_is_compiled_is_there_and_named_once() -> None:
    listed = PROGRAM.read_text().partition("MODULES: Final = (")[2].partition(")")[0]
    modules = re.findall(r'"([a-z_.]+)"', listed)
    assert len(modules) > 40
    assert len(set(modules)) == len(modules)
    missing = [
        name for name in modules if not (ROOT / f"ollad/{name.replace('.', '/')}.py").exists()
    ]
    assert missing == []


def test_without_a_compiler_it_says_what_is_missing_and_changes_nothing(tmp_path: Path) -> None:
    module = tmp_path / "ollad/fastpath.py"
    module.parent.mkdir()
    module.write_text("")
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(tmp_path)],
        env={**os.environ, "CC": "no-such-compiler"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "no-such-compiler" in done.stderr
    assert "apt-get install gcc python3-dev" in done.stderr
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [module]

# ruff: noqa: INP001 - a script, not a module of a package
"""Compile the data plane of an ollad that was copied to a folder: ``compile.py FOLDER``.

mypyc makes C of the modules below, by the types that they state anyway, and the compiler of this
machine makes what Python loads in their place; their text stays beside that. A request then takes
about half the CPU time. Where the compiler or Python's headers are missing, or fail, ollad is left
as it is, and runs as well, but slower.

Runs in a virtual environment, into which it installs mypy; without a folder, in any Python, it says
what is missing.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import io
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any, Final

TOOLS: Final = ("mypy==2.4.1", "setuptools>=77,<90")
"""What compiles; another mypyc may make something else of the same text."""

MODULES: Final = (
    "announcement",
    "call",
    "closing",
    "conduct",
    "connection",
    "dispatch",
    "excerpt",
    "familiar",
    "fastpath",
    "framing",
    "generation",
    "headers",
    "intake",
    "jsontext",
    "model_choice",
    "placement",
    "record",
    "replies",
    "serving",
    "traffic",
    "backends.backend",
    "backends.breaker",
    "backends.pool",
    "metrics.histogram",
    "metrics.telemetry",
    "relay.chunks",
    "relay.downstream",
    "relay.exchange",
    "relay.forward",
    "relay.outbox",
    "relay.pool",
    "relay.reading",
    "relay.replyhead",
    "relay.retry",
    "relay.underway",
    "relay.upstream",
    "relay.watch",
    "routing.canonical",
    "routing.demand",
    "routing.index",
    "routing.ledger",
    "routing.popularity",
    "routing.prefix_cache",
    "routing.prompt",
    "sglang.annotate",
    "sglang.event_figures",
    "sglang.events",
    "sglang.media",
    "sglang.opening",
    "sglang.plain",
    "sglang.sse",
    "sglang.values",
)
"""What every request goes through."""

# What libraries say of their types is not believed: some of it holds for their Python text only,
# and not for what was compiled of it.
CONFIGURATION: Final = """\
[mypy]
follow_imports = skip
ignore_missing_imports = True
[mypy-ollad.*]
follow_imports = normal
ignore_errors = True
[mypy-{modules}]
ignore_errors = False
"""


def foreign_bases(module: str) -> list[str]:
    """Bases from elsewhere of compiled classes, which would corrupt their memory."""
    compiled = importlib.import_module(module)
    return [
        f"{kind.__qualname__} of {module} inherits from {base.__qualname__}"
        for kind in vars(compiled).values()
        if isinstance(kind, type) and "__mypyc_attrs__" in vars(kind)
        for base in kind.__mro__
        if base.__module__.partition(".")[0] not in {"ollad", *sys.stdlib_module_names}
    ]


def missing() -> list[str]:
    """What this machine lacks to compile anything for this Python."""
    compiler = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
    header = Path(sysconfig.get_path("include"), "Python.h")
    lacking = [] if shutil.which(compiler.split()[0]) else [f"C compiler {compiler.split()[0]}"]
    return lacking if header.exists() else [*lacking, str(header)]


def install_tools() -> None:
    """Install what compiles into the environment that this runs in."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--root-user-action=ignore", *TOOLS], check=True)  # noqa: S603 - ours


def licence_of_mypyc() -> Path:
    """The terms of what mypyc adds to each library that it makes."""
    files = importlib.metadata.files("mypy") or ()
    (licence,) = [file for file in files if file.match("*.dist-info/licenses/LICENSE")]
    return Path(str(licence.locate()))


def make_c() -> list[Any]:
    """Make C of the modules below the working directory, which has nothing but them.

    Returns:
        What is to be compiled.

    Raises:
        ValueError: the text is not what mypyc takes; the message says why.
    """
    from mypyc.build import mypycify  # noqa: PLC0415 - it may just have been installed

    configuration = Path("mypy.ini")
    names = ",".join(f"ollad.{module}" for module in MODULES)
    configuration.write_text(CONFIGURATION.format(modules=names))
    paths = [str(Path("ollad", *module.split(".")).with_suffix(".py")) for module in MODULES]
    options = [f"--config-file={configuration}", f"--cache-dir={os.devnull}"]
    extensions: list[Any] = []
    with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.suppress(SystemExit):
        extensions = mypycify(
            [*options, *paths],
            group_name="ollad",
            opt_level="2",
            debug_level="0",
            target_dir="c",
        )
    if not extensions or "Unsupported" in said.getvalue():  # what would not do what its text says
        raise ValueError(said.getvalue())
    return extensions


def compile_in_place(extensions: list[Any]) -> None:
    """Have the compiler make what Python loads.

    Raises:
        SystemExit: it failed; it has said why.
    """
    from setuptools import setup  # noqa: PLC0415 - it may just have been installed

    os.environ["LDFLAGS"] = f"{os.environ.get('LDFLAGS', '')} -s"
    setup(
        name="ollad",
        ext_modules=extensions,
        script_args=["--quiet", "build_ext", "--inplace", "--build-temp=o"],
    )


def compile_modules(folder: Path) -> None:
    """Compile what is below ``folder``.

    Raises:
        ValueError: as of ``make_c``, or a class would corrupt its memory.
        SystemExit: as of ``compile_in_place``.
    """
    with tempfile.TemporaryDirectory() as scratch:
        # apart from the libraries, which mypy would take for ones of its own
        shutil.copytree(folder / "ollad", Path(scratch, "ollad"))
        os.chdir(scratch)
        compile_in_place(make_c())
        for made in (*Path().glob("*.so"), *Path("ollad").rglob("*.so")):
            shutil.copy(made, folder / made)
        shutil.copy(licence_of_mypyc(), folder / "ollad__mypyc.LICENSE")
        os.chdir(folder)
    sys.path.insert(0, str(folder))
    if wrong := [base for module in MODULES for base in foreign_bases(f"ollad.{module}")]:
        raise ValueError("\n".join(wrong))


def main() -> None:
    """Compile, if that can be done; without a folder, say what is missing."""
    lacking = missing()
    if len(sys.argv) == 1:
        sys.stdout.write("".join(f"{what}\n" for what in lacking))
        return
    try:
        if lacking:
            sys.exit(f"no {' and no '.join(lacking)}; on Debian: apt-get install gcc python3-dev")
        install_tools()
        compile_modules(Path(sys.argv[1]).resolve())
    except (SystemExit, subprocess.CalledProcessError) as failed:
        sys.stderr.write(f"ollad is not compiled, and will take twice the CPU time: {failed}\n")


if __name__ == "__main__":
    main()

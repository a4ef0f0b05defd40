"""The manual pages ``ollad(8)`` and ``ollad.yaml(5)``, made from the parser and from the schema.

``python -m ollad.cli.manual FOLDER`` writes both, as ``make build`` does. They are roff with the
``man`` macros (groff_man(7)). Only what neither the parser nor the schema knows is written here.
"""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ollad import __version__
from ollad.cli import EX_OK, make_parser
from ollad.config.describe import entries, purpose, sections
from ollad.config.schema import DEFAULT_PATH

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["command_page", "configuration_page", "main"]

_LINE_WIDTH: Final = 78

_SYNOPSIS: Final = "A daemon in front of one or more SGLang servers."

_SIGNALS: Final = {
    "SIGTERM, SIGINT": (
        "New requests get 503, those under way may finish within server.shutdown_timeout; a second "
        "signal ends that at once."
    ),
    "SIGHUP": (
        "The configuration is read anew; a file with a problem changes nothing but the log."
    ),
}

_FILES: Final = {
    DEFAULT_PATH: "The configuration; ollad.yaml(5).",
    "/run/ollad/control.sock": "Takes the orders of 'ollad reload' and 'ollad backend'.",
    "/etc/default/ollad": "Environment variables of the service, lines of NAME=value.",
    "/etc/ollad/credentials": (
        "Files that systemd hands to the service: NAME there is "
        "/run/credentials/ollad.service/secret_NAME for it."
    ),
}

_ENVIRONMENT: Final = {
    "RUNTIME_DIRECTORY": "Where the control socket is; two daemons need two.",
    "NOTIFY_SOCKET, WATCHDOG_USEC": "Set by systemd; see sd_notify(3).",
    "LISTEN_FDS, LISTEN_FDNAMES": "Set by systemd; see sd_listen_fds(3).",
    "NO_COLOR": "Set to anything, 'ollad top' uses no colours.",
}

_VALUES: Final = """\
One YAML file. A key may be given once; a key that is not known, a value of the wrong kind and a
combination that cannot be meant are errors: 'ollad check' reports them all at once, and ollad does
not start with one.

Durations are written 250ms, 5s, 2m, 1h or 1h30m; sizes 64KiB or 8MiB (powers of 1024), 64kB or 8MB
(powers of 1000), or as a number of bytes.

In any value, ${VAR} stands for an environment variable and ${VAR:-default} for one with a default;
$${ is a plain ${.
"""

_EXAMPLE: Final = (
    "endpoints:",
    '  - url: "http://192.168.0.100:30000"',
    "    name: gpu-a",
    '  - url: "http://192.168.0.101:30000"',
    "    name: gpu-b",
)


def command_page(date: str) -> str:
    """``ollad(8)``, of ``date`` (ISO 8601)."""
    parser = make_parser()
    lines = [
        *_head("ollad", "8", date, str(parser.description)),
        ".SH SYNOPSIS",
        ".B ollad",
        r".I COMMAND",
        ".RI [ option ...]",
        ".br",
        r".B ollad \-\-version",
        ".SH DESCRIPTION",
        _text(_SYNOPSIS),
        _text("Its configuration is described in ollad.yaml(5)."),
        ".SH COMMANDS",
    ]
    for name, command in _subcommands(parser):
        lines += _command(f"ollad {name}", command)
    lines += [".SH EXIT STATUS", _text(str(parser.epilog).partition(": ")[2].capitalize())]
    for title, facts in (
        ("SIGNALS", _SIGNALS),
        ("FILES", _FILES),
        ("ENVIRONMENT", _ENVIRONMENT),
    ):
        lines += [f".SH {title}", *_facts(facts)]
    lines += [".SH SEE ALSO", ".BR ollad.yaml (5),", ".BR systemctl (1),", ".BR journalctl (1)"]
    return _page(lines)


def configuration_page(date: str) -> str:
    """``ollad.yaml(5)``, of ``date`` (ISO 8601)."""
    lines = [
        *_head("ollad.yaml", "5", date, "The configuration of ollad."),
        ".SH SYNOPSIS",
        f".I {_escaped(DEFAULT_PATH)}",
        ".SH DESCRIPTION",
    ]
    for number, paragraph in enumerate(_VALUES.split("\n\n")):
        lines += [*([".PP"] if number else []), _text(paragraph)]
    lines += [".SH KEYS"]
    for path, section in sections():
        keys = entries(path, section)
        if not keys:
            continue
        lines += [f".SS {_escaped(path or 'Top level')}", _text(_plain(purpose(section)))]
        for key in keys:
            default = _plain(key.default)
            told = default if default in {"mandatory", "see below"} else f"default {default}"
            lines += [
                ".TP",
                f'.BR {_escaped(key.name)} " ({_escaped(_plain(key.takes))}; {_escaped(told)})"',
                _text(_plain(key.meaning)),
            ]
    lines += [".SH EXAMPLE", ".EX", *(_escaped(line) for line in _EXAMPLE), ".EE"]
    lines += [".SH SEE ALSO", ".BR ollad (8)"]
    return _page(lines)


def _head(name: str, section: str, date: str, sentence: str) -> list[str]:
    summary = sentence.rstrip(".")
    summary = summary[:1].lower() + summary[1:]
    return [
        f'.TH {name.upper()} {section} {date} "ollad {__version__}" "System Administration"',
        ".nh",
        ".SH NAME",
        rf"{name} \- {_escaped(summary)}",
    ]


def _command(name: str, parser: argparse.ArgumentParser) -> list[str]:
    """A command, and those below it."""
    usage = " ".join(parser.format_usage().split()).removeprefix("usage: ")
    lines = [f".SS {_escaped(name)}", _text(str(parser.description))]
    below = list(_subcommands(parser))
    if below:
        for below_name, one in below:
            lines += _command(f"{name} {below_name}", one)
        return lines
    lines += [".PP", f".B {_escaped(usage)}"]
    formatter = argparse.HelpFormatter(parser.prog)
    for action in parser._actions:  # noqa: SLF001 - argparse tells them nowhere else
        if isinstance(action, argparse._HelpAction):  # noqa: SLF001 - every command has it
            continue
        said = formatter._expand_help(action)  # noqa: SLF001 - as --help shows it
        term = formatter._format_action_invocation(action)  # noqa: SLF001 - as --help shows it
        lines += [".TP", f".B {_escaped(term)}", _text(said[:1].upper() + said[1:] + ".")]
    return lines


def _subcommands(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for action in parser._actions:  # noqa: SLF001 - argparse tells them nowhere else
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 - has no public name
            yield from action.choices.items()


def _facts(facts: dict[str, str]) -> Iterator[str]:
    for term, meaning in facts.items():
        yield from (".TP", f".B {_escaped(term)}", _text(meaning))


def _plain(markdown: str) -> str:
    return markdown.replace("`", "").strip("*")


def _text(text: str) -> str:
    """Running text, in lines of which none begins with what roff takes for a request."""
    wrapped = textwrap.wrap(
        _escaped(text), _LINE_WIDTH, break_long_words=False, break_on_hyphens=False
    )
    return "\n".join(rf"\&{line}" if line.startswith(".") else line for line in wrapped)


def _escaped(text: str) -> str:
    """``text`` so that roff takes it as it is and a dash can be copied into a shell."""
    return text.replace("\\", r"\e").replace("-", r"\-").replace("'", r"\(aq").replace('"', r"\(dq")


def _page(lines: list[str]) -> str:
    return "\n".join(lines) + "\n"


def main(folder: Path) -> int:
    """Write the pages into ``folder``.

    The date is that of ``SOURCE_DATE_EPOCH``, if that is set
    (https://reproducible-builds.org/docs/source-date-epoch/).
    """
    # the defaults shown are the service's, not those of whoever builds it
    for name in ("RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR"):
        os.environ.pop(name, None)
    moment = float(os.environ.get("SOURCE_DATE_EPOCH", "") or time.time())
    date = datetime.fromtimestamp(moment, UTC).date().isoformat()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ollad.8").write_text(command_page(date))
    (folder / "ollad.yaml.5").write_text(configuration_page(date))
    return EX_OK


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))

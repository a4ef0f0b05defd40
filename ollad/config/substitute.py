"""``${VAR}`` and ``${VAR:-default}`` in a value that is already parsed.

Because parsing comes first, a variable's text can never add keys or change the structure.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from ollad.config.problems import InvalidValueError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["substitute"]

_REFERENCE: Final = re.compile(r"(?P<escaped>\$\$\{)|\$\{(?P<inside>[^}]*)(?P<end>\}?)", re.DOTALL)
_INSIDE: Final = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.DOTALL)


def substitute(text: str, environ: Mapping[str, str]) -> str:
    """``text`` with its references replaced; ``$${`` stands for a plain ``${``.

    As in a shell, the default after ``:-`` is taken when the variable is unset or empty.

    Raises:
        InvalidValueError: a reference is malformed or its variable unset; the reason names all.
    """
    faults: list[str] = []

    def replacement(match: re.Match[str]) -> str:
        if match["escaped"]:
            return "${"
        inside = _INSIDE.fullmatch(match["inside"])
        if inside is None or not match["end"] or "${" in match["inside"]:
            faults.append("a reference is written ${NAME} or ${NAME:-default}, a plain '${' '$${'")
            return ""
        name, default = inside.groups()
        value = environ.get(name)
        if default is not None:
            return value or default
        if value is None:
            faults.append(
                f"environment variable {name} is not set; set it or write ${{{name}:-default}}"
            )
            return ""
        return value

    result = _REFERENCE.sub(replacement, text)
    if faults:
        raise InvalidValueError("; ".join(dict.fromkeys(faults)))
    return result

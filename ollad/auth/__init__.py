"""Who may use ollad, for what and how much: the keys of ``auth.keys``."""

from ollad.auth.gate import Gate
from ollad.auth.key import Key
from ollad.auth.meter import Lease, Meter

__all__ = ["Gate", "Key", "Lease", "Meter"]

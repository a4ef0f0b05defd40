"""Memory that was given back stays for the next long body."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

CODE = """
import resource
from ollad.allocator import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        bytes(bytearray(8 << 20))
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
before = faults()
print(keep_freed_memory())
faults()
print(before, faults())
"""


@pytest.mark.skipif(
    "CS_GNU_LIBC_VERSION" not in os.confstr_names, reason="other C libraries cannot be told"
)
def test_long_bodies_reuse_the_memory_of_those_before() -> None:
    told, figures = subprocess.check_output([sys.executable, "-c", CODE], text=True).splitlines()
    before, after = map(int, figures.split())
    assert told == "True"
    assert after < before / 10

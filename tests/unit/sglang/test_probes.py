from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollad.sglang import probes


@pytest.mark.parametrize(
    ("version", "release"),
    [
        ("0.5.23", (0, 5, 23)),
        ("0.4.10.post2", (0, 4, 10)),
        ("v0.5.9", (0, 5, 9)),
        ("0.5.24.dev12+gabc", (0, 5, 24)),
        ("main", None),
        ("", None),
        (None, None),
    ],
)
def test_versions_are_read(version: str | None, release: tuple[int, int, int] | None) -> None:
    assert probes.parse_version(version) == release


@given(st.text())
def test_no_version_text_breaks_the_reader(version: str) -> None:
    assert probes.may_exist(probes.READY, version) in (True, False)


@pytest.mark.parametrize(
    ("route", "version", "expected"),
    [
        (probes.READY, "0.5.23", True),
        (probes.READY, "0.5.19", True),  # not looked at: a try decides
        (probes.READY, "0.5.18", False),
        (probes.LOADS, "0.5.9", True),
        (probes.LOADS, "0.4.10", False),
        (probes.GET_LOAD, "0.5.20", True),
        (probes.GET_LOAD, "0.5.23", False),
        (probes.GET_LOAD, "0.4.6", False),
        (probes.SERVER_INFO, "0.5.5", False),
        (probes.GET_SERVER_INFO, "0.4.6", True),
        (probes.READY, None, True),
    ],
)
def test_a_route_is_left_out_only_where_it_is_known_to_lack(
    route: str, version: str | None, expected: bool
) -> None:
    assert probes.may_exist(route, version) is expected

from __future__ import annotations

import io

import pytest

from ollad.cli.screen import Screen


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> tuple[Screen, io.StringIO]:
    """A screen of 6 columns and 3 rows, with no keyboard."""
    monkeypatch.setattr("sys.stdin", io.StringIO())
    monkeypatch.setattr(Screen, "_size", lambda _self: (6, 3))
    output = io.StringIO()
    return Screen(output), output


def test_the_terminal_is_untouched_until_there_is_something_to_show(
    lines: tuple[Screen, io.StringIO],
) -> None:
    screen, output = lines
    with screen:
        screen.redraw()
    assert output.getvalue() == ""


def fail_on(screen: Screen) -> None:
    with screen:
        screen.show(lambda columns, rows: [f"{columns}x{rows}"])
        raise ZeroDivisionError


def test_the_terminal_is_given_back_when_something_fails(
    lines: tuple[Screen, io.StringIO],
) -> None:
    screen, output = lines
    with pytest.raises(ZeroDivisionError):
        fail_on(screen)
    text = output.getvalue()
    assert text.startswith("\x1b[?1049h")
    assert "6x3" in text
    assert text.endswith("\x1b[?1049l")


def test_nothing_is_cleared_behind_a_full_line_for_that_takes_its_last_character(
    lines: tuple[Screen, io.StringIO],
) -> None:
    screen, output = lines
    with screen:
        screen.show(lambda _columns, _rows: ["123456", "123456"])
        assert output.getvalue().endswith("123456\r\n\x1b[J")
        screen.show(lambda _columns, _rows: ["123456"] * 3)
        assert output.getvalue().endswith("123456")

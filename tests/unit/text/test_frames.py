"""Frames as Python shows them: carets, folds and cuts."""

from __future__ import annotations

import pytest

from wsgi_tracebacker.model.snapshot import Frame
from wsgi_tracebacker.text.frames import traceback


def test_equal_calls_of_a_recursion_are_folded() -> None:
    """As in Python, three are shown and the others counted; a different line ends the fold."""
    again = Frame("a.py", 2, "again")
    lines = list(traceback([again] * 9 + [again._replace(lineno=3)] + [again] * 4 + [again]))
    repeated = ['File "a.py", line 2, in again'] * 3
    assert lines == [
        *repeated,
        "[Previous line repeated 6 more times]",
        'File "a.py", line 3, in again',
        *repeated,
        "[Previous line repeated 2 more times]",
    ]
    assert list(traceback([again] * 4))[-1] == "[Previous line repeated 1 more time]"


@pytest.mark.parametrize(
    ("source", "column", "end_column", "expected"),
    [
        ("    return f(x)\n", 11, 15, ["return f(x)", "       ^^^^"]),
        ("x = größe(1)", 4, 14, ["x = größe(1)", "    ^^^^^^^^"]),
        ('s = "漢字" + f()', 15, 18, ['s = "漢字" + f()', " " * 13 + "^^^"]),
        ('s = "漢字" + f()', 4, 12, ['s = "漢字" + f()', "    ^^^^^^"]),
        ("e\u0301 = f()", 6, 9, ["e\u0301 = f()", "    ^^^"]),
        ("\tif x:\tf()", 7, 10, ["if x:    f()", "         ^^^"]),
        ("s = '\x1b[1m' + f()", 13, 16, [r"s = '\x1b[1m' + f()", " " * 16 + "^^^"]),
        # The whole line.
        ("    f()", 0, 7, ["f()"]),
        ("    f()", 2, 7, ["f()"]),
        ("f()", None, None, ["f()"]),
        ("f()", 3, 3, ["f()"]),
        ("f()", 2, 1, ["f()"]),
        ("f()", 100, 200, ["f()"]),
        ("    f()", 0, 2, ["f()"]),
        ("   \n", 0, 2, []),
        (None, 0, 2, []),
    ],
)
def test_carets_stand_below_the_expression_that_runs(
    source: str | None, column: int | None, end_column: int | None, expected: list[str]
) -> None:
    """Columns are bytes of the unstripped line; carets are as wide as a terminal shows what they mark."""
    _, *lines = traceback([Frame("a.py", 1, "f", source, 1, column, end_column)])
    assert lines == [f"  {line}" for line in expected]


def test_an_expression_of_many_lines_is_marked_to_the_end_of_its_first() -> None:
    """The end column then belongs to another line."""
    lines = list(traceback([Frame("a.py", 1, "f", "  x = call(  \n", 3, 6, 3)]))
    assert lines[1:] == ["  x = call(", "      ^^^^^"]


def test_a_long_line_is_cut() -> None:
    """Generated code does not fill the screen, and no caret points into what is not shown."""
    source = "x = " + "a + " * 5000 + "f()"
    _, line = traceback([Frame("a.py", 1, "f", source, 1, len(source) - 3, len(source))])
    assert len(line) < 500
    assert line.endswith(" ...")

"""Stacks with the calls folded that are not the application's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.analysis.served import FLASK, IN_ORDERS, ORDERS, POOL, SERVER, THREAD, VIEW, WAIT
from tests.unit.wire.hostile import is_fit
from tests.unit.wire.strategies import frames as any_frames
from wsgi_tracebacker.model.code_ownership import CodeOwnership
from wsgi_tracebacker.text.folding import folded
from wsgi_tracebacker.text.palette import COLOURED

if TYPE_CHECKING:
    from wsgi_tracebacker.model.snapshot import Frame

OWNERSHIP = CodeOwnership("shop.wsgi:app")


def shown(*frames: Frame) -> list[str]:
    return list(folded(frames, OWNERSHIP, cwd="/srv"))


def test_own_calls_have_their_source_and_others_are_counted() -> None:
    """Above the application's code its servers are named; below it, also what it called in the end."""
    assert shown(*IN_ORDERS) == [
        "… 4 calls of gunicorn and flask",
        "shop/views.py:41 checkout",
        "  order = load_order(order_id)",
        "          ^^^^^^^^^^^^^^^^^^^^",
        "shop/orders.py:71 load_order",
        "  with engine.connect() as connection:",
        "       ^^^^^^^^^^^^^^^^",
        "… 2 calls of sqlalchemy, then threading.py:331 Condition.wait",
    ]


def test_a_run_between_own_calls_and_a_single_call() -> None:
    """A decorator of a library is one call, and is named after a colon."""
    text = shown(VIEW._replace(source=None), FLASK, ORDERS._replace(source=None), WAIT)
    assert text == [
        "shop/views.py:41 checkout",
        "… 1 call of flask: flask/app.py:1498 Flask.__call__",
        "shop/orders.py:71 load_order",
        "… 1 call of Python: threading.py:331 Condition.wait",
    ]


def test_without_own_code_the_librarys_call_is_shown_or_the_innermost_is_named() -> None:
    """An installed application's innermost call stands for it; a thread of the server has none."""
    assert shown(*SERVER, WAIT) == [
        "… 3 calls of gunicorn",
        "flask/app.py:1498 Flask.__call__",
        "  return self.wsgi_app()",
        "… 1 call of Python: threading.py:331 Condition.wait",
    ]
    assert shown(THREAD, WAIT) == ["… 2 calls of Python, then threading.py:331 Condition.wait"]
    assert shown() == []


def test_many_libraries_are_counted() -> None:
    """Three are named."""
    libraries = [FLASK._replace(filename=f"/v/site-packages/{name}/a.py") for name in "abcde"]
    assert shown(*libraries, VIEW)[0] == "… 5 calls of a, b, c and 2 more"


def test_a_recursion_is_folded() -> None:
    """Equal calls are shown three times, whatever is below them."""
    text = shown(*(VIEW,) * 9, WAIT)
    assert text.count("shop/views.py:41 checkout") == 3
    assert text[-2] == "[Previous line repeated 6 more times]"


def test_of_a_thousand_own_calls_both_ends_are_shown() -> None:
    """Two functions that call each other without end: a screen, and how many are missing."""
    text = shown(*SERVER, *(VIEW, POOL, ORDERS) * 500, WAIT)
    assert len(text) < 130
    assert "… 1455 more calls, in the middle of the stack" in text
    assert text[-1] == "… 1 call of Python: threading.py:331 Condition.wait"


def test_own_calls_are_bright_and_others_dim() -> None:
    """In colour; without it the text is the same."""
    text = list(folded(IN_ORDERS, OWNERSHIP, cwd="/srv", palette=COLOURED))
    assert text[:2] == ["\x1b[2m… 4 calls of gunicorn and flask\x1b[0m", "\x1b[1mshop/views.py:41 checkout\x1b[0m"]


@given(st.lists(any_frames, max_size=50))
def test_nothing_raw_and_no_call_is_lost(found: list[Frame]) -> None:
    """Whatever a stack holds, its lines are fit for a terminal."""
    assert all(map(is_fit, folded(found, CodeOwnership())))

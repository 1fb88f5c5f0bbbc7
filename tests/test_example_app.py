"""The example application."""

from __future__ import annotations

import inspect
import os
from typing import TYPE_CHECKING

import pytest
from werkzeug.test import Client

from example_app import pages, slow

if TYPE_CHECKING:
    from tests.conftest import StartGunicorn

CHAIN = ["application", "dormi5", "dormi4", "dormi3", "dormi2", "dormi"]


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, list[str]]]:
    """Instead of sleeping: for how long, and the functions that stand on the stack, outermost first."""
    seen: list[tuple[float, list[str]]] = []

    def sleep(seconds: float) -> None:
        seen.append((seconds, [frame.function for frame in reversed(inspect.stack(0)[1:])]))

    monkeypatch.setattr("time.sleep", sleep)
    return seen


def test_the_slow_page_sleeps_six_calls_deep_for_a_minute(naps: list[tuple[float, list[str]]]) -> None:
    """Without a query the bare slow page sleeps 60 seconds, at the end of the chain of uWSGI's example."""
    response = Client(slow.application).get("/")
    [(seconds, functions)] = naps
    assert (response.status_code, response.text) == (200, "slept 60 seconds\n")
    assert seconds == 60
    assert functions[-6:] == CHAIN


def test_the_index_names_every_page() -> None:
    """Whoever opens the example sees where to go, and every place exists."""
    client = Client(pages.application)
    text = client.get("/").text
    assert client.get("/quick").text == "quick\n"
    for rule in pages.PAGES.iter_rules():
        assert rule.rule == "/" or f'href="{rule.rule}"' in text


def test_the_example_runs_wrapped_under_gunicorn(gunicorn: StartGunicorn, base: str) -> None:
    """``example_app.wsgi:application`` is the same pages, with a socket for the worker beside them."""
    server = gunicorn("example_app.wsgi:application", "--worker-class", "gthread", "--threads", "2")
    assert server.get("/quick").text == "quick\n"
    assert server.get("/nothing").status == 404
    assert os.path.exists(base + "1")

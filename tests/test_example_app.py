"""The example application, and the demonstration with it."""

from __future__ import annotations

import inspect
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from werkzeug.test import Client

from example_app import pages, slow
from tests.support.leftovers import holdings
from tests.support.programs import PROJECT, require_program

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


def start_demo() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "example_app.demo"],
        cwd=PROJECT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def folder_of(output: str) -> Path:
    """Where it kept its sockets and its log, by the first command that it showed."""
    found = re.search(r"^\$ WSGI_TB_SOCKET=(/tmp/wsgi-tb-\w+)/", output, re.MULTILINE)
    assert found is not None, output
    return Path(found[1])


def test_the_demonstration_shows_four_stacks() -> None:
    """It shows the four slow requests with their functions, ends with 0, and leaves neither folder nor process."""
    require_program("gunicorn")
    with start_demo() as demo:
        output, _ = demo.communicate()
    assert demo.returncode == 0, output
    for function in CHAIN[1:]:
        assert re.search(rf"^    example_app/slow\.py:\d+ {function}$", output, re.MULTILINE), output
    assert not folder_of(output).exists()


def test_an_interrupted_demonstration_takes_everything_down() -> None:
    """^C in the middle leaves neither gunicorn nor the folder behind."""
    shown: list[str] = []
    with start_demo() as demo:
        assert demo.stdout is not None
        # It says so once gunicorn listens.
        for line in demo.stdout:
            shown.append(line)
            if "curl" in line:
                break
        folder = folder_of("".join(shown))
        assert folder.exists()
        demo.send_signal(signal.SIGINT)
        output, _ = demo.communicate()
    assert demo.returncode == 128 + signal.SIGINT, output
    assert not folder.exists()
    assert [pid for pid in holdings().children if "gunicorn" in pid] == []

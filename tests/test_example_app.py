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


def test_the_query_sets_how_long_it_sleeps(naps: list[tuple[float, list[str]]]) -> None:
    """``?seconds=`` reaches the sleep, behind the other pages too."""
    response = Client(pages.application).get("/slow?seconds=0.25")
    assert response.text == "slept 0.25 seconds\n"
    assert [seconds for seconds, _ in naps] == [0.25]
    assert naps[0][1][-6:] == CHAIN


@pytest.mark.parametrize("seconds", ["", "soon", "-1", "nan", "inf", "1e9", "1;2", "%00"])
@pytest.mark.parametrize("path", ["/slow", "/stream", "/burn"])
def test_seconds_that_cannot_be_used_are_refused(path: str, seconds: str, naps: list[object]) -> None:
    """What is no number within the limits is a 400 with one line that says what would be right, and nothing sleeps."""
    response = Client(pages.application).get(f"{path}?seconds={seconds}")
    assert response.status_code == 400
    assert response.text.startswith("seconds has to be a number from 0 to ")
    assert response.text.count("\n") == 1
    assert naps == []


def test_the_stream_comes_chunk_by_chunk(naps: list[tuple[float, list[str]]]) -> None:
    """``/stream`` pauses before each chunk and has no length, so that a server sends each at once."""
    response = Client(pages.application).get("/stream?chunks=3&seconds=2", buffered=False)
    chunks = iter(response.response)
    assert next(chunks) == b"chunk 1 of 3\n"
    assert [seconds for seconds, _ in naps] == [2]
    assert list(chunks) == [b"chunk 2 of 3\n", b"chunk 3 of 3\n"]
    assert "Content-Length" not in response.headers
    response.close()


def test_the_busy_page_burns_cpu() -> None:
    """``/burn`` uses as much CPU time of its thread as it was asked to."""
    before = os.times().user + os.times().system
    response = Client(pages.application).get("/burn?seconds=0.1")
    assert response.text == "burnt 0.1 seconds of CPU time\n"
    # The kernel counts in ticks of 10 ms.
    assert os.times().user + os.times().system - before >= 0.08


def test_the_index_names_every_page() -> None:
    """Whoever opens the example sees where to go, and every place exists."""
    client = Client(pages.application)
    text = client.get("/").text
    assert client.get("/quick").text == "quick\n"
    for rule in pages.PAGES.iter_rules():
        assert rule.rule == "/" or f'href="{rule.rule}"' in text


def test_other_paths_and_methods_are_refused() -> None:
    """An unknown path is a 404, another method a 405."""
    client = Client(pages.application)
    assert client.get("/nothing").status_code == 404
    assert client.get("/slow/deeper").status_code == 404
    assert client.post("/quick").status_code == 405


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
    """It shows every function of each of the four slow requests, ends with 0, and leaves neither folder nor process."""
    require_program("gunicorn")
    with start_demo() as demo:
        output, _ = demo.communicate()
    assert demo.returncode == 0, output
    for function in CHAIN[1:]:
        assert output.count(f"in {function}\n") == 4, output
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

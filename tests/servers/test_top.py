"""wsgi-tb top in a real terminal, on real gunicorn; and its forms for scripts."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support import clients
from tests.support.programs import PROJECT
from tests.support.terminal import Terminal
from tests.support.waiting import wait_until
from wsgi_tracebacker.top.app import KEYS
from wsgi_tracebacker.top.views import VIEWS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import StartGunicorn
    from tests.support.servers import Gunicorn

COMMAND = (sys.executable, "-m", "wsgi_tracebacker", "top")

#: A title of each view that the view before it does not have.
TITLES = {"requests": "W:C", "places": "REQUESTS", "workers": "PID", "locks": "HELD BY", "routes": "ROUTE"}

#: Escape sequences in a path, markup, and letters that are written from right to left.
HOSTILE = "/slow/%1b%5B31mred%5Bred%5D%D8%B9"


@pytest.fixture
def server(gunicorn: StartGunicorn, base: str) -> Iterator[Gunicorn]:
    """One worker with eight threads, and four requests, which sleep."""
    started = gunicorn("example_app.wsgi:application", "--threads", "8")
    with contextlib.ExitStack() as connections:
        for number in range(4):
            connections.enter_context(clients.in_flight(started.address, f"/slow?seconds=60&number={number}"))
        wait_until(lambda: len(once(base, "--format", "jsonl").splitlines()) == 4, "all are in flight")
        yield started


def once(base: str, *arguments: str) -> str:
    done = subprocess.run(
        (*COMMAND, base, "--once", "--every", "0.1", *arguments),
        cwd=PROJECT,
        env={name: value for name, value in os.environ.items() if name != "COLUMNS"},
        capture_output=True,
        check=False,
        timeout=30,
    )
    assert done.returncode in (0, 3), done.stderr
    return done.stdout.decode()


@contextlib.contextmanager
def top(base: str, columns: int, lines: int, cwd: Path) -> Iterator[Terminal]:
    command = (*COMMAND, base, "--every", "0.2")
    with Terminal(command, columns, lines, cwd, {"PYTHONPATH": str(PROJECT), "LC_ALL": "C.UTF-8"}) as terminal:
        terminal.wait_for("GET /slow")
        yield terminal
        terminal.type("q")
        terminal.wait_until_gone("? help")
        terminal.type("echo ended with $?", "Enter")
        terminal.wait_for("ended with 0")
        # The screen is the shell's again, and nothing is left on it.
        assert "Traceback" not in terminal.text()


@pytest.mark.parametrize(("columns", "lines"), [(80, 24), (200, 50)])
def test_every_key(  # noqa: PLR0915  (one story: each key is pressed where the one before left the screen)
    server: Gunicorn, base: str, columns: int, lines: int, tmp_path: Path
) -> None:
    """Each does what the help says, in a small and in a large terminal; no line is broken."""
    pressed: set[str] = set()

    with top(base, columns, lines, tmp_path) as terminal:

        def press(*keys: str) -> None:
            pressed.update(keys)
            terminal.type(*keys)

        assert re.search(r"1 worker: 1 alive +4/8 busy", terminal.lines()[0])
        for number, view in enumerate(VIEWS, 1):
            press(str(number))
            terminal.wait_for(TITLES[view.name])
        press("Tab")
        terminal.wait_for("W:C")
        press("j", "Down", "k", "Up")
        press("Enter")
        terminal.wait_for("time.sleep(seconds)")
        press("J", "K", "Enter")
        terminal.wait_until_gone("time.sleep(seconds)")
        press("s")
        terminal.wait_for("W:C▼")
        press("S")
        terminal.wait_for("W:C▲")
        press("/")
        terminal.type("no/thing", "Enter", "2")
        terminal.wait_for("only with: no/thing")
        terminal.wait_for(TITLES["places"])
        press("Escape")
        terminal.wait_until_gone("only with")
        press("1")
        terminal.wait_for("GET /slow")
        server.get("/quick")
        press("i")
        terminal.wait_for("after GET /quick")
        press("i")
        terminal.wait_until_gone("after GET /quick")
        press("Space")
        terminal.wait_for("paused")
        press("p")
        terminal.wait_for("every 0.2 s")
        press("-")
        terminal.wait_for("every 0.5 s")
        press("+")
        terminal.wait_for("every 0.2 s")
        press("w")
        terminal.wait_for("written to wsgi-tb-")
        [written] = tmp_path.glob("wsgi-tb-*.json")
        assert stat.S_IMODE(written.stat().st_mode) == 0o600
        assert len(json.loads(written.read_bytes())["workers"]) == 1
        press("?")
        terminal.wait_for(KEYS[-1][1])
        press("?")
        terminal.wait_until_gone(KEYS[0][1])
        terminal.click(columns - 30, 4)
        terminal.click(columns - 30, 4)
        terminal.wait_for("time.sleep(seconds)")
        assert max(map(len, terminal.lines())) <= columns
    documented = {key for keys, _ in KEYS for key in re.findall(r"\S+", keys.replace(",", " "))}
    named = {"Up": "up", "Down": "down", "Enter": "enter", "Tab": "tab", "Space": "space"}
    # Escape is said in words, "1 to 5" has a word too, and the next test suspends.
    assert documented - {"to", "q", "ctrl+z"} <= {named.get(key, key) for key in pressed}


def test_resizing_and_suspending(server: Gunicorn, base: str, tmp_path: Path) -> None:
    """The screen fits its new size; ^Z gives the terminal back to the shell, and fg goes on."""
    with top(base, 80, 24, tmp_path) as terminal:
        terminal.resize(200, 50)
        terminal.wait_for("CLIENT")
        terminal.resize(60, 12)
        terminal.wait_until_gone("CLIENT")
        terminal.type("C-z")
        terminal.wait_for("Stopped")
        terminal.type("fg", "Enter")
        terminal.wait_for("? help")
        terminal.wait_for("GET /slow")


def test_a_worker_that_is_killed_is_a_row(server: Gunicorn, base: str, tmp_path: Path) -> None:
    """Its requests are lost, its successor takes its place, and no traceback is on the screen."""
    with top(base, 120, 30, tmp_path) as terminal:
        os.kill(server.workers()[0], signal.SIGKILL)
        terminal.wait_for("lost")
        terminal.wait_for("1:-")
        server.get("/quick")
        assert "Traceback" not in terminal.text()
    # What the worker that was killed left goes with its successor, if that has served a request.


def test_no_text_of_a_request_reaches_the_terminal_raw(gunicorn: StartGunicorn, base: str, tmp_path: Path) -> None:
    """Neither escape sequences nor markup: they are shown, and other letters as they are."""
    ours = ("-c", "python:wsgi_tracebacker.servers.gunicorn", "--worker-class", "gthread", "--threads", "2")
    server = gunicorn("example_app.slow:application", *ours)
    with clients.in_flight(server.address, f"{HOSTILE}?seconds=60"), top(base, 200, 50, tmp_path) as terminal:
        terminal.wait_for("GET /slow/\\x1b[31mred[red]\N{ARABIC LETTER AIN}")


def test_once_prints_the_screen(server: Gunicorn, base: str) -> None:
    """Each view as text; in a pipe nothing is cut."""
    for view in VIEWS:
        head, titles, *rows = once(base, "--view", view.name).splitlines()
        assert "1 worker: 1 alive" in head
        assert titles.split()[0] == view.columns[0].title
        # A request that sleeps waits for no lock.
        assert bool(rows) == (view.name != "locks")
    assert "example_app/slow.py" in once(base)


def test_a_json_line_for_each_request(server: Gunicorn, base: str) -> None:
    """With the CPU share between the two readings; each line is complete."""
    lines = [json.loads(line) for line in once(base, "--format", "jsonl").splitlines()]
    assert {line["path"] for line in lines} == {"/slow"}
    assert all(0.0 <= line["cpu_share"] < 1.0 for line in lines)
    assert {line["worker"] for line in lines} == {1}


def test_json_lines_until_nobody_reads_them(server: Gunicorn, base: str) -> None:
    """Lines for every reading; a closed pipe ends it without a traceback."""
    command = (*COMMAND, base, "--format", "jsonl", "--every", "0.1")
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        read = [json.loads(process.stdout.readline()) for _ in range(12)]
        assert len({line["taken_at"] for line in read}) == 3
        process.stdout.close()
        assert process.stderr.read() == b""
        process.wait(30)


def test_without_a_terminal_it_says_what_to_do() -> None:
    """One line, and the exit code of a wrong command."""
    done = subprocess.run(
        COMMAND, cwd=PROJECT, stdin=subprocess.DEVNULL, capture_output=True, check=False, text=True, timeout=30
    )
    assert done.returncode == 2
    assert "--once" in done.stderr.splitlines()[-1]

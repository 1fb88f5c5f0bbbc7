"""Programs that other people wrote, on the socket of a real worker."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.servers import asking
from tests.support import clients
from tests.support.programs import require_program
from tests.support.waiting import wait_until
from wsgi_tracebacker.wire import uwsgi_text as uwsgi_format

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import StartGunicorn


@pytest.fixture
def socket(gunicorn: StartGunicorn, base: str) -> Iterator[str]:
    """The socket of a worker that has one thread, asleep in a slow request: every dump of it is the same."""
    server = gunicorn()
    with clients.in_flight(server.address, "/slow?seconds=60"):
        wait_until(lambda: any(map(asking.sleeps_six_calls_deep, asking.serving(base))), "it sleeps")
        yield f"{base}1"


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=30, check=True, encoding="utf-8"
    )


def frames_of(dump: str) -> list[str]:
    return [line for line in dump.splitlines() if line.startswith("thread_id = ")]


def test_uwsgi_prints_every_frame(socket: str) -> None:
    """uwsgi --connect-and-read, which sends nothing, shows the whole dump, to the byte."""
    dump = clients.read_to_end(socket).decode()
    assert [stack.core for stack in uwsgi_format.parse(dump.encode())] == [0]
    assert len(frames_of(dump)) > len(asking.CHAIN)
    assert dump in run(require_program("uwsgi"), "--connect-and-read", socket).stderr


def test_socat_prints_every_frame(socket: str) -> None:
    """Both ways to use it: saying nothing, and with an end of input at once."""
    dump = clients.read_to_end(socket).decode()
    assert run(require_program("socat"), "-u", f"UNIX-CONNECT:{socket}", "STDOUT").stdout == dump
    assert run(require_program("socat"), "-", f"UNIX-CONNECT:{socket}").stdout == dump
    assert len(frames_of(dump)) > len(asking.CHAIN)


def test_curl_gets_every_document(socket: str) -> None:
    """The text, the snapshot and the worker over HTTP, and an error's status where there is nothing."""

    def curl(target: str, *options: str) -> str:
        return run(require_program("curl"), "-sS", *options, "--unix-socket", socket, f"http://worker{target}").stdout

    dump = clients.read_to_end(socket).decode()
    assert curl("/") == dump
    assert curl("/snapshot.txt") == dump
    [thread] = json.loads(curl("/snapshot"))["threads"]
    asking.check_chain(thread)
    assert json.loads(curl("/worker"))["worker"]["requests_in_flight"] == 1
    assert curl("/nothing", "--output", "/dev/null", "--write-out", "%{http_code}") == "404"
    assert curl("/", "--request", "POST", "--output", "/dev/null", "--write-out", "%{http_code}") == "405"

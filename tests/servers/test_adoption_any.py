"""Servers that are given our module, or a filter in an INI file, instead of a change to the application."""

from __future__ import annotations

import contextlib
import re
import socket
import sys
from typing import TYPE_CHECKING, Protocol

import pytest

from tests.servers import asking
from tests.support import black_boxes, clients
from tests.support.programs import PROJECT, require_program
from tests.support.servers import Server
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

AUTO = "wsgi_tracebacker.servers.auto:application"
HOWTO = PROJECT / "docs/howto"


class StartCommand(Protocol):
    """How a test starts a command that serves; ``{port}`` in it becomes a free port."""

    def __call__(
        self, *command: str, env: Mapping[str, str] | None = None, cwd: Path = PROJECT
    ) -> tuple[Server, tuple[str, int]]: ...


@pytest.fixture
def command(base: str, tmp_path: Path) -> Iterator[StartCommand]:
    with contextlib.ExitStack() as servers:

        def start(
            *command: str, env: Mapping[str, str] | None = None, cwd: Path = PROJECT
        ) -> tuple[Server, tuple[str, int]]:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
            program = require_program(command[0])
            environment = {"WSGI_TB_SOCKET": base, "PYTHONPATH": str(PROJECT), **(env or {})}
            arguments = [argument.format(port=port) for argument in command[1:]]
            server = Server([program, *arguments], tmp_path / "server.log", env=environment, cwd=cwd)
            servers.enter_context(server)
            server.wait_until_connectable(("127.0.0.1", port))
            return server, ("127.0.0.1", port)

        yield start


COMMANDS = {
    "waitress": ("waitress-serve", "--listen", "127.0.0.1:{port}", AUTO),
    "granian": ("granian", "--interface", "wsgi", "--host", "127.0.0.1", "--port", "{port}", AUTO),
    "uwsgi": (
        "uwsgi",
        "--http-socket",
        "127.0.0.1:{port}",
        "--virtualenv",
        sys.prefix,
        "--die-on-term",
        "--module",
        AUTO,
    ),
    "uwsgi, the module alone": (
        *("uwsgi", "--http-socket", "127.0.0.1:{port}", "--virtualenv", sys.prefix, "--die-on-term"),
        *("--module", AUTO.partition(":")[0]),
    ),
}


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS.keys())
def test_any_server_is_given_our_module(
    words: tuple[str, ...], command: StartCommand, base: str, tmp_path: Path
) -> None:
    """Nothing before the first request; then the application that the variable names is seen with its request."""
    _, address = command(*words, env={"WSGI_TB_APP": "tests.programs.unwrapped:application"})
    assert asking.files(base) == []
    gate = tmp_path / "gate"
    with clients.in_flight(address, f"/wait?{gate}") as connection:
        thread = asking.waits_in(base, "wait_for_the_file")
        assert thread["request"]["path"] == "/wait"
        gate.touch()
        assert connection.getresponse().read() == b"done\n"
    assert asking.ask(base, 1, "/worker")["worker"]["application"] == "tests.programs.unwrapped:application"


def test_a_factory_and_an_option_from_the_environment(command: StartCommand, base: str) -> None:
    """The factory's arguments are literal; options are those of every middleware."""
    words = COMMANDS["waitress"]
    target = "tests.programs.unwrapped:create_application('from a factory')"
    _, address = command(*words, env={"WSGI_TB_APP": target, "WSGI_TB_APPLICATION": "shop"})
    assert clients.request(address, "/").text == "from a factory"
    assert asking.ask(base, 1, "/worker")["worker"]["application"] == "shop"


@pytest.mark.parametrize(
    "target",
    [
        "tests.programs.websocket:app",
        "tests.programs.unwrapped:create_application()",
    ],
)
def test_an_application_is_called_as_it_was_named(command: StartCommand, base: str, target: str) -> None:
    """Not after the framework's class that its object is of, nor after what a factory returns."""
    _, address = command(*COMMANDS["waitress"], env={"WSGI_TB_APP": target})
    clients.request(address, "/")
    assert asking.ask(base, 1, "/worker")["worker"]["application"] == target


def test_uwsgis_own_core_numbers(command: StartCommand, base: str, tmp_path: Path) -> None:
    """Each thread has the number of the core that uWSGI says to the application."""
    target = {"WSGI_TB_APP": "tests.programs.unwrapped:application"}
    _, address = command(*COMMANDS["uwsgi"], "--threads", "4", env=target)
    gate = tmp_path / "gate"
    with contextlib.ExitStack() as stack:
        connections = {
            str(number): stack.enter_context(
                clients.in_flight(address, f"/wait?{gate}", headers={"X-Request-ID": str(number)})
            )
            for number in range(4)
        }
        wait_until(lambda: len(asking.serving(base)) == 4, "all are seen")
        ours = {thread["request"]["request_id"]: thread["core"] for thread in asking.serving(base)}
        gate.touch()
        theirs = {number: connection.getresponse().headers["X-Core"] for number, connection in connections.items()}
    assert {number: str(core) for number, core in ours.items()} == theirs


WITHOUT_THREADS = r"wsgi_tracebacker: uWSGI runs no thread .*--enable-threads or --threads$"


def test_uwsgi_without_threads_is_warned_of(command: StartCommand) -> None:
    """Once a worker. PyPI's 2.0.31 runs threads in any case; here it is made to say what others say of themselves."""
    server, address = command(
        *COMMANDS["uwsgi"],
        *("--import", "tests.programs.uwsgi_without_threads"),
        env={"WSGI_TB_APP": "tests.programs.unwrapped:application"},
    )
    for _ in range(2):
        assert clients.request(address, "/quick").text == "done\n"
    server.wait_for_log(WITHOUT_THREADS)
    assert len(re.findall(WITHOUT_THREADS, server.log_text(), re.MULTILINE)) == 1


# ------------------------------------------------------------------------------------------------------ PasteDeploy

SHOP = """
from tests.programs.unwrapped import application

def main(global_conf, **settings):
    return application
"""


def ini_of_the_how_to() -> str:
    [text] = re.findall(r"```ini\n(\[app:shop\].*?)```", (HOWTO / "pserve.md").read_text(), re.DOTALL)
    assert isinstance(text, str)
    return text


@pytest.fixture
def base_of_the_file(base: str) -> Iterator[str]:
    """Another one than the environment names; what the killed worker leaves is taken away after the server's end."""
    yield f"{base}-ini"
    black_boxes.remove(f"{base}-ini")


def test_pserve_with_the_filter_of_the_how_to(base_of_the_file: str, command: StartCommand, short_path: Path) -> None:
    """The file of the how-to, served by real pserve: requests are seen, the options count."""
    (short_path / "shop.py").write_text(SHOP)
    text = ini_of_the_how_to().replace("/run/shop/tb", base_of_the_file)
    (short_path / "shop.ini").write_text(text.replace("127.0.0.1:8000", "127.0.0.1:%(http_port)s"))
    _, address = command(
        *("pserve", str(short_path / "shop.ini"), "http_port={port}"), env={"PYTHONPATH": f"{PROJECT}:{short_path}"}
    )
    with clients.in_flight(address, f"/wait?{short_path}/gate") as connection:
        thread = asking.waits_in(base_of_the_file, "wait_for_the_file")
        assert thread["request"]["path"] == "/wait"
        (short_path / "gate").touch()
        assert connection.getresponse().status == 200
    worker = asking.ask(base_of_the_file, 1, "/worker")["worker"]
    assert worker["application"] == "shop"

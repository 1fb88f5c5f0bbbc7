"""Run the shop, ask for its pages, and show what ``wsgi-tb`` says of them.

With gunicorn where that is installed, else with the standard library's server. Waits until the requests are seen, never
for a time. Everything that it starts or makes is gone when it ends, also after a failure or ^C.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from wsgi_tracebacker.reader.dead import postmortems
from wsgi_tracebacker.text.palette import COLOURED, PLAIN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: All in one worker: two of them wait for each other.
TROUBLES = ("/buy", "/refund", "/charge", "/report")
#: In the other one, where from then on nothing else runs.
STALL = "/search"

#: Starting a server takes about half a second; this is for a machine under heavy load.
_PATIENCE_SECONDS = 20.0
#: Between two looks.
_POLL_SECONDS = 0.05

_INTRO = "A shop under {server}: five requests hang, for four reasons.\n"
_ENDED = "\nAll of it has been ended."
_IN_BROWSER = " The same in the browser: wsgi-tb demo --web"
_NEXT = """
Next, an application of yours, and then wsgi-tb read:
  gunicorn -c python:wsgi_tracebacker.servers.gunicorn mysite.wsgi
"""

_GUNICORN = """\
from wsgi_tracebacker.servers.gunicorn import *
worker_class, workers, threads, keepalive = "gthread", 2, 4, 60
bind, graceful_timeout, control_socket_disable = "127.0.0.1:0", 1, True
"""


#: The heading of the first stack, in colour or not.
_FIRST_PLACE = re.compile(r"^(?:\x1b\[[\d;]*m)*1(?:\x1b\[[\d;]*m)*  \d", re.MULTILINE)


class DemoError(Exception):
    """What did not come about; ``str()`` is the line for people."""


class Demo:
    """One run, in a folder of its own."""

    def __init__(self, folder: Path, write: Callable[[str], object], *, colour: bool, web: bool) -> None:
        """``write`` takes text with its line ends."""
        self._folder = folder
        self._write = write
        self._colour = ("--color", "always") if colour else ()
        self._palette = COLOURED if colour else PLAIN
        self._web = web
        self._base = str(folder / "tb")
        self._log = folder / "log"
        self._columns = shutil.get_terminal_size().columns
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("WSGI_TB_")},
            "WSGI_TB_SOCKET": self._base,
            "WSGI_TB_HARAKIRI": "1",
            "WSGI_TB_APP": "shop:shop",
            "COLUMNS": str(self._columns),
            "TMPDIR": str(folder),
        }
        # The commands run there; this module may be one of a checkout in the present folder.
        package = str(Path(__file__).parents[2])
        path = [package, *filter(None, [self._environment.get("PYTHONPATH")])]
        self._environment["PYTHONPATH"] = os.pathsep.join(path)

    def run(self) -> None:
        """Show everything. Raises DemoError, OSError or HTTPException."""
        shutil.copy(Path(__file__).with_name("shop.py"), self._folder)
        has_gunicorn = find_spec("gunicorn") is not None
        self._write(_INTRO.format(server="gunicorn" if has_gunicorn else "Python's own server"))
        servers = self._gunicorn() if has_gunicorn else self._own_servers()
        # It takes connections, and never answers.
        bank = socket.create_server(("127.0.0.1", 0))
        self._environment["BANK"] = f"http://127.0.0.1:{bank.getsockname()[1]}"
        with bank, servers as processes, contextlib.ExitStack() as clients:
            try:
                self._ask(processes, clients)
                self._show()
                if self._web:
                    self._serve_page()
            except DemoError:
                self._write(f"\nThe log of the server:\n{self._log.read_text()}")
                raise
        has_page = not self._web and find_spec("werkzeug") is not None
        self._write(_ENDED + (_IN_BROWSER if has_page else "") + _NEXT)

    # --- the server

    @contextlib.contextmanager
    def _gunicorn(self) -> Iterator[list[subprocess.Popen[bytes]]]:
        (self._folder / "conf.py").write_text(_GUNICORN)
        with self._started("gunicorn", "-c", "conf.py", "shop:shop") as process:
            yield [process]

    @contextlib.contextmanager
    def _own_servers(self) -> Iterator[list[subprocess.Popen[bytes]]]:
        with self._started("wsgi_tracebacker.demo.serve") as one, self._started("wsgi_tracebacker.demo.serve") as other:
            yield [one, other]

    @contextlib.contextmanager
    def _started(self, module: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # ^C is for us; we end the server.
                start_new_session=True,
            )
        try:
            yield process
        finally:
            # Its process group is its own: it and its workers.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    # --- the requests

    def _ask(self, processes: list[subprocess.Popen[bytes]], clients: contextlib.ExitStack) -> None:
        """Put the requests in flight, and wait until all are seen, and one is reported."""
        self._wait(lambda: len(self._ports()) == len(processes), "the server listens", processes)
        ports = self._ports()
        # The worker that this one stalls takes no other.
        for port, path in [(ports[0], STALL), *((ports[-1], trouble) for trouble in TROUBLES)]:
            client = http.client.HTTPConnection("127.0.0.1", port, timeout=_PATIENCE_SECONDS)
            clients.enter_context(contextlib.closing(client))
            client.request("GET", path)
            if path == STALL:
                self._wait(lambda: self._in_flight() == 1, f"{STALL} is in flight", processes)
        self._wait(lambda: self._in_flight() == len(TROUBLES) + 1, "all requests are in flight", processes)
        self._wait(lambda: "harakiri: GET /charge" in self._log.read_text(), "a report is logged", processes)

    def _ports(self) -> list[int]:
        return [int(port) for port in re.findall(r"Listening at: http://127\.0\.0\.1:(\d+)", self._log.read_text())]

    def _in_flight(self) -> int:
        # What a worker serves is known of one that does not answer, too.
        listed = self._command("list", "--format", "json", "--timeout", "0.2").stdout
        workers = json.loads(listed)["workers"] if listed else []
        return sum(worker["requests_in_flight"] or 0 for worker in workers)

    def _wait(self, condition: Callable[[], bool], what: str, processes: list[subprocess.Popen[bytes]]) -> None:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not condition():
            for process in processes:
                if process.poll() is not None:
                    raise DemoError(f"the server ended with {process.returncode}; waited until {what}")
            if time.monotonic() > deadline:
                raise DemoError(f"waited {_PATIENCE_SECONDS:g} s in vain until {what}")
            time.sleep(_POLL_SECONDS)

    # --- what is shown

    def _show(self) -> None:
        self._write(f"{self._prompt('wsgi-tb list')}{self._said('list')}")
        text = self._said("read", *self._colour)
        overview = _FIRST_PLACE.split(text, maxsplit=1)[0].rstrip()
        self._write(f"{self._prompt(f'wsgi-tb read | head -n {overview.count(chr(10)) + 1}')}{overview}\n")
        # On a busy machine the proof that a worker is stalled takes several tries.
        one = ("read", "--path", STALL, "--timeout", "5")
        stack = self._said(*one, *self._colour).strip()
        # The last paragraph says what is not shown.
        stack = stack.rpartition("\n\n")[0]
        command = f"wsgi-tb {' '.join(one)} | head -n {stack.count(chr(10)) + 1}"
        self._write(f"{self._prompt(command)}{stack}\n")
        found = re.search(r"^.*harakiri: GET /charge .*\n(?:  .*\n)+", self._log.read_text(), re.MULTILINE)
        report = found[0].split("\n")[:2] if found is not None else []
        lines = [line for each in report for line in self._wrapped(each)]
        self._write(self._prompt("grep -A 1 'harakiri: GET /charge' log") + "".join(f"{line}\n" for line in lines))

    def _serve_page(self) -> None:
        """Until it is interrupted."""
        with self._started("wsgi_tracebacker", "web", "--listen", "127.0.0.1:0", self._base) as process:
            page = re.compile(r"http://127\.0\.0\.1:\d+/(?= shows)")
            self._wait(lambda: bool(page.search(self._log.read_text())), "the page is served", [process])
            [address] = page.findall(self._log.read_text())
            self._write(f"\nThe same in the browser, until Ctrl-C ends it: {address}\n")
            with contextlib.suppress(KeyboardInterrupt):
                process.wait()

    def _prompt(self, command: str) -> str:
        return f"\n{self._palette.paint(self._palette.heading, '$ ' + command)}\n"

    def _wrapped(self, line: str) -> list[str]:
        """A line of the log as a terminal of that width shows it, but broken between words."""
        indent = " " * (len(line) - len(line.lstrip()) + 2)
        return textwrap.wrap(line, self._columns, subsequent_indent=indent, break_long_words=False)

    def _said(self, *arguments: str) -> str:
        """What a command prints. Its exit code says that one worker, which is stalled, did not answer by itself."""
        done = self._command(*arguments)
        if not done.stdout:
            raise DemoError(f"wsgi-tb {arguments[0]} ended with {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def _command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "wsgi_tracebacker", *arguments],
            cwd=self._folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )


def play(write: Callable[[str], object], *, colour: bool, web: bool = False) -> None:
    """Show the demonstration; with ``web`` the page too, until it is interrupted.

    Raises DemoError, OSError or HTTPException.
    """
    # Not where TMPDIR says: the path of a UNIX socket has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="wsgi-tb-", dir="/tmp") as name:
        try:
            Demo(Path(name), write, colour=colour, web=web).run()
        finally:
            # Its workers are killed, and these leave their black boxes for a successor.
            postmortems.clear(str(Path(name) / "tb"))

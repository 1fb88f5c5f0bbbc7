"""Run what the pages of ``PAGES`` show, and write down what it prints: ``python -m docs.record [PAGE …]``.

Knows three marks in a page. A Python block after ``<!-- file: NAME -->`` is saved under that name. A console block
after ``<!-- recorded -->`` is run, command by command, and its output is replaced by what was printed, all of it; after
``<!-- recorded, at once -->`` nothing is waited for once requests are in flight. Refuses to know what the pages tell.

gunicorn, the sockets and the files are in a temporary folder and end with the recording. In the pages they have the
names of an ordinary installation: /srv/shop, /tmp/tbsocket, port 8000. Nothing else of the output is changed.
A gunicorn that is started while one runs takes its place.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tests.support.servers import Gunicorn
from tests.support.waiting import wait_until
from wsgi_tracebacker.worker.blackbox import box_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.clients import Address

PROJECT = Path(__file__).resolve().parent.parent
PAGES = (
    "README.md",
    "docs/tutorial.md",
    "docs/howto/why-a-request-hangs.md",
    "docs/howto/worker-that-answers-nothing.md",
    "docs/howto/blocked-hub.md",
    "docs/howto/deadlocks-and-pools.md",
    "docs/reference/report.md",
)

#: How old the slow requests of a page are when they are looked at: as old as one that somebody complains about.
AGE_SECONDS = 12.0

#: What the pages call things.
FOLDER, BASE, ADDRESS = "/srv/shop", "/tmp/tbsocket", "localhost:8000"  # noqa: S108  (a name, nothing is made there)

_BLOCK = re.compile(
    r"<!-- (?:file: (?P<file>[\w.]+)|recorded(?P<young>, at once)?) -->\n+"
    r"```(?:python|console)\n(?P<body>.*?)```\n",
    re.DOTALL,
)
#: ``NAME=VALUE … gunicorn ARGUMENTS 2>LOG &``
_GUNICORN = re.compile(r"(?P<variables>(?:\w+=\S+ )*)gunicorn (?P<arguments>.*?)(?: 2>(?P<log>\S+))? &")

#: A command that asks workers, and leaves them as they are.
_LOOK = re.compile(r"wsgi-tb (read|list|check|top)\b|curl -s --unix-socket ")
#: On a busy machine a worker may not answer in time, or not be proven stalled.
_PATIENCE_SECONDS = 30.0

#: A log to which nothing was added for so long is complete: reports come a moment after what they are about.
_QUIET_SECONDS = 0.5


class Recorded(NamedTuple):
    """One command of a page, what the page says that it prints, and what it printed."""

    command: str
    written: str
    printed: str


class _Gunicorn(Gunicorn):
    """One to which nobody has connected when it is looked at: each connection may cost a thread, which is shown."""

    def wait_until_connectable(self, address: Address) -> None:
        """It has said that it listens."""


class Session:
    """A folder with a server in it, in which the commands of one page run."""

    def __init__(self, folder: Path, age_seconds: float) -> None:
        self._folder = folder
        self._base = str(folder / "tb")
        self._age_seconds = age_seconds
        self._server: _Gunicorn | None = None
        self._clients: list[subprocess.Popen[bytes]] = []
        #: How many requests these have sent.
        self._sent = 0
        # Paths are shown below the folder in which the commands are run, as wide as they are.
        shutil.copytree(PROJECT / "example_app", folder / "example_app", ignore=shutil.ignore_patterns("__pycache__"))
        # The script in the virtual environment names an interpreter by its path and breaks when the folder is moved.
        command = folder / "bin" / "wsgi-tb"
        command.parent.mkdir()
        command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m wsgi_tracebacker "$@"\n')
        command.chmod(0o700)
        path = os.pathsep.join(
            [str(command.parent), str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
        )
        python_path = os.pathsep.join([str(folder), str(PROJECT)])
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("WSGI_TB_")},
            "PATH": path,
            "PYTHONPATH": python_path,
            "WSGI_TB_SOCKET": self._base,
        }

    def save(self, name: str, text: str) -> None:
        (self._folder / name).write_text(text)

    def run(self, command: str, *, at_once: bool = False) -> str:
        """What one command prints. One that ends in ``&`` is left running, and is looked at when its request is old."""
        if start := _GUNICORN.fullmatch(command):
            self._start(start)
            return ""
        if command.endswith("&"):
            words = shlex.split(self._real(command[:-1]))
            self._clients.append(subprocess.Popen(words, env=self._environment, stdout=subprocess.DEVNULL))
            self._sent += _count_requests(command)
            wait_until(lambda: self._in_flight() == self._sent, "the request is in flight")
            # The age is what the page is to show.
            time.sleep(0.0 if at_once else self._age_seconds)
            return ""
        if command.startswith("kill "):
            return self._kill()
        if self._server is not None and self._server.log.name in command:
            wait_until(lambda: self._run(command).returncode == 0, "the log has what is looked for")
            self._wait_until_quiet(self._server)
        return self._shown(self._run(command).stdout)

    def _run(self, command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", self._real(command)],
            cwd=self._folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )

    def _start(self, start: re.Match[str]) -> None:
        self.close()
        *arguments, application = shlex.split(start["arguments"])
        log = self._folder / (start["log"] or "log")
        log.unlink(missing_ok=True)
        self._server = _Gunicorn(
            application,
            *arguments[: arguments.index("--bind")],
            log=log,
            env={**self._environment, **dict(word.split("=", 1) for word in start["variables"].split())},
            cwd=self._folder,
        )

    def _wait_until_quiet(self, server: Gunicorn) -> None:
        known, since = server.log_text(), time.monotonic()

        def is_quiet() -> bool:
            nonlocal known, since
            if server.log_text() != known:
                known, since = server.log_text(), time.monotonic()
            return time.monotonic() - since > _QUIET_SECONDS

        wait_until(is_quiet, "the log is complete")

    def close(self) -> None:
        for client in self._clients:
            client.kill()
            client.wait()
        self._clients.clear()
        self._sent = 0
        if self._server is not None:
            self._server.stop()
            self._server = None
        # What a worker that was killed leaves, and its successor's postmortem of it.
        left = Path(box_files.path_of(self._base, 1, "*"))
        for path in left.parent.glob(left.name.replace(".1.", ".*.")):
            path.unlink()

    def _workers(self) -> list[dict[str, object]]:
        listed = subprocess.run(
            [sys.executable, "-m", "wsgi_tracebacker", "list", "--format", "json", self._base],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            check=False,
        )
        workers: list[dict[str, object]] = json.loads(listed.stdout)["workers"] if listed.stdout else []
        return workers

    def _in_flight(self) -> int:
        return sum(int(str(worker["requests_in_flight"] or 0)) for worker in self._workers())

    def _kill(self) -> str:
        """``kill -9`` of the worker that serves a request: its pid differs from the page's."""
        [pid] = [int(str(worker["pid"])) for worker in self._workers() if worker["requests_in_flight"]]
        os.kill(pid, 9)
        wait_until(lambda: any(worker["state"] == "dead" for worker in self._workers()), "the worker is dead")
        return ""

    def _real(self, command: str) -> str:
        port = "" if self._server is None else f"localhost:{self._server.address[1]}"
        return command.replace(ADDRESS, port).replace(BASE, self._base)

    def _shown(self, output: str) -> str:
        version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
        port = "" if self._server is None else str(self._server.address[1])
        for real, name in (
            (self._base, BASE),
            (str(self._folder), FOLDER),
            (f"{self._folder.name}/", f"{Path(FOLDER).name}/"),
            (str(PROJECT / "wsgi_tracebacker"), f"{FOLDER}/.venv/lib/{version}/site-packages/wsgi_tracebacker"),
            (str(Path(sys.prefix).resolve()), f"{FOLDER}/.venv"),
            (sys.prefix, f"{FOLDER}/.venv"),
            (str(PROJECT), FOLDER),
            (sysconfig.get_path("stdlib"), f"/usr/lib/{version}"),
            (f":{port}", ":8000"),
        ):
            output = output.replace(real, name) if real.strip(":") else output
        # A page's files and the example are in one folder, in which the commands are run.
        return re.sub(rf"{FOLDER}/((?!\.venv)\S+\.py:\d+ )", r"\1", output)


@contextlib.contextmanager
def session(age_seconds: float = 0.0) -> Iterator[Session]:
    """Somewhere to run a page; everything is ended and removed again."""
    # Not where TMPDIR says: the path of a UNIX socket has at most 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="tb-", dir="/tmp"))
    running = Session(folder, age_seconds)
    try:
        yield running
    finally:
        running.close()
        shutil.rmtree(folder)


def _count_requests(command: str) -> int:
    """How many requests a curl sends: one, or as many as a range in its URL has numbers."""
    found = re.search(r"\[(\d+)-(\d+)\]", command)
    return 1 if found is None else int(found[2]) - int(found[1]) + 1


def commands(body: str) -> Iterator[tuple[str, str]]:
    """The commands of a console block, each with the output that stands below it."""
    for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        yield command, output


def play(
    page: str, running: Session, is_as_written: Callable[[Recorded], bool] = lambda _: True
) -> Iterator[tuple[re.Match[str], list[Recorded]]]:
    """Run a page from top to bottom. A command that only looks is run again until its output is as it should be."""
    for block in _BLOCK.finditer(page):
        if block["file"]:
            running.save(block["file"], block["body"])
            continue
        recorded = []
        for command, written in commands(block["body"]):
            deadline = time.monotonic() + _PATIENCE_SECONDS
            while True:
                printed = running.run(command, at_once=block["young"] is not None)
                one = Recorded(command, written, printed)
                if not _LOOK.match(command) or is_as_written(one) or time.monotonic() > deadline:
                    break
            recorded.append(one)
        yield block, recorded


def main() -> None:
    """Write the pages that are named anew, or all of them."""
    for name in sys.argv[1:] or PAGES:
        path = PROJECT / name
        page = path.read_text()
        written, end = [], 0
        with session(AGE_SECONDS) as running:
            for block, recorded in play(page, running):
                written.append(page[end : block.start("body")])
                written += [f"$ {one.command}\n{one.printed}" for one in recorded]
                end = block.end("body")
        path.write_text("".join([*written, page[end:]]))


if __name__ == "__main__":
    main()

"""What an application does to its own process, for real; and it is served on, and can be read afterwards."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from tests.servers import asking
from tests.servers.faulty import can_be_read, check_served, look_on, said, wait_until_read
from tests.support import clients
from tests.support.programs import PROJECT
from tests.support.waiting import wait_until
from wsgi_tracebacker.wire import uwsgi_text as uwsgi_format

if TYPE_CHECKING:
    from tests.servers.faulty import StartFaulty
    from tests.support.servers import Gunicorn


def do(faulty: StartFaulty, base: str, act: str, **env: str) -> Gunicorn:
    server = faulty(base, **env)
    check_served(server)
    assert server.get(f"/do/{act}").text == f"/do/{act}"
    check_served(server)
    return server


def test_it_replaces_stderr(faulty: StartFaulty, base: str, short_path: Path) -> None:
    """With something that fails: what we have to say is on descriptor 2, once."""
    folder = short_path / "run"
    folder.mkdir()
    base = str(folder / "tb")
    server = do(faulty, base, "replace_stderr")
    wait_until_read(base)
    shutil.rmtree(folder)
    server.wait_for_log("^WARNING wsgi_tracebacker: cannot open a socket")
    look_on(server)
    folder.mkdir()
    wait_until_read(base)
    assert len(said(server)) == 1


def test_it_renames_its_threads(faulty: StartFaulty, base: str) -> None:
    """After control characters, line ends and false fields: shown escaped, each request still with its own thread."""
    server = do(faulty, base, "rename_threads")
    with server.in_flight("/wait/renamed?/nowhere"):
        [thread] = wait_until(lambda: asking.serving(base, "/wait/renamed"), "it is in flight")
        # It looks for its gate there, again and again.
        assert "page" in [frame["function"] for frame in thread["frames"]]
        text = clients.request(f"{base}1", "/").body
        assert b"\x1b" not in text
        stacks = uwsgi_format.parse(text)
        assert not [stack for stack in stacks if stack.name == "evil"]
        assert {frame.filename for stack in stacks for frame in stack.frames if frame.function == "page"} == {
            str(PROJECT / "tests/programs/faulty.py")
        }
    assert said(server) == []


def test_it_becomes_another_program(faulty: StartFaulty, base: str) -> None:
    """exec() within a request: nothing of ours is inherited, the number is free at once, and the death is told."""
    server = faulty(base, "--workers", "2", "--worker-class", "sync", "--threads", "1")

    def both_serve() -> bool:
        check_served(server)
        return can_be_read(base, 1) and can_be_read(base, 2)

    wait_until(both_serve, "both workers serve")
    with server.in_flight("/do/execute"):
        inherited = server.wait_for_log(r"^inherited (.*)$")[1]
        assert base not in inherited
        assert "wsgi_tracebacker" not in inherited
        assert "eventfd" not in inherited
        check_served(server)
        [gone] = [number for number in (1, 2) if not can_be_read(base, number)]
        pid = json.loads(Path(f"{base}{gone}.worker").read_bytes())["pid"]
        assert pid in server.workers()
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: len(server.workers()) == 2 and pid not in server.workers(), "there is a successor")
    wait_until(both_serve, "both workers serve")
    told = server.wait_for_log(rf"worker {gone}, pid {pid}, died with 1 request in flight[^\n]*\n  GET (\S+)")
    assert told[1] == "/do/execute"


def test_its_source_files_vanish(faulty: StartFaulty, base: str, tmp_path: Path) -> None:
    """Replaced by a folder, by a pipe, or gone, before anybody has looked: frames are shown without their lines."""
    folder = tmp_path / "application"
    folder.mkdir()
    source = (PROJECT / "tests/programs/faulty.py").read_text(encoding="utf-8")
    for name in ("gone", "pipe", "folder"):
        (folder / f"vanishing_{name}.py").write_text(source)
    for name in ("gone", "pipe", "folder"):
        path = folder / f"vanishing_{name}.py"
        here = base + name
        server = faulty(here, "--pythonpath", f"{folder},{PROJECT}", application=f"vanishing_{name}:application")
        # Served, and not looked at yet.
        check_served(server)
        path.unlink()
        if name == "pipe":
            os.mkfifo(path)
        elif name == "folder":
            path.mkdir()
        with server.in_flight("/wait/unseen?/nowhere"):
            [thread] = wait_until(functools.partial(asking.serving, here, "/wait/unseen"), "it is in flight")
            # It looks for its gate there, again and again.
            [frame] = [frame for frame in thread["frames"] if frame["function"] == "page"]
            assert (frame["filename"], frame["source"]) == (str(path), None)
            assert re.search(rb"function = page line = \n", clients.request(f"{here}1", "/").body)
        check_served(server)
        assert said(server) == []
        server.stop()

"""``wsgi-tb demo``: the real thing, from its start to the last process that it ends."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.programs import PROJECT
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

WITH_GUNICORN = ("-m", "wsgi_tracebacker", "demo")
WITHOUT = (
    "-c",
    "import sys; sys.modules['gunicorn'] = None; from wsgi_tracebacker.__main__ import main; main()",
    "demo",
)


@contextlib.contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, *arguments],
        cwd=PROJECT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as demo:
        try:
            yield demo
        finally:
            # Where the test failed: it would go on for ever.
            demo.terminate()


def processes_in(folder: str) -> list[int]:
    """The processes that run in a folder, also if that is gone."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdecimal() and os.readlink(entry / "cwd").startswith(folder):
                found.append(int(entry.name))
        except OSError:
            pass
    return found


def folder_of(demo: subprocess.Popen[str]) -> str:
    """Where its servers run, while they do."""

    def of_a_child() -> str | None:
        children = Path(f"/proc/{demo.pid}/task/{demo.pid}/children").read_text().split()
        return next((where for pid in children if "/wsgi-tb-" in (where := os.readlink(f"/proc/{pid}/cwd"))), None)

    return wait_until(of_a_child, "its server runs") or ""


def is_gone(folder: str) -> bool:
    boxes = Path("/dev/shm").glob("wsgi_tracebacker.*")
    return not os.path.exists(folder) and not processes_in(folder) and not any(names(box, folder) for box in boxes)


def names(box: Path, folder: str) -> bool:
    """Whether a black box is of a worker that was there; those of other tests come and go."""
    try:
        return folder.encode() in box.read_bytes()
    except OSError:
        return False


@pytest.mark.parametrize("arguments", [WITH_GUNICORN, WITHOUT], ids=["gunicorn", "Python's own server"])
def test_it_names_four_troubles_on_one_screen(arguments: tuple[str, ...]) -> None:
    """Each request with what it waits for, a stack, a report, in at most fifty lines; and nothing is left."""
    with started(*arguments) as demo:
        folder = folder_of(demo)
        output, _ = demo.communicate()
    assert demo.returncode == 0, output
    assert len(output.splitlines()) <= 50, output
    server = "gunicorn" if arguments is WITH_GUNICORN else "Python's own server"
    assert output.startswith(f"A shop under {server}: five requests hang, for four reasons.\n")
    # On a busy machine one look does not prove it.
    assert re.search(r"^ +\d+ +\d+  (stalled|busy) +1/-", output, re.MULTILINE)
    for path, waits_for in (
        ("/search", r"(holds the GIL|on a CPU)"),
        ("/buy", r"deadlock: "),
        ("/refund", r"deadlock: "),
        ("/charge", r"GET "),
        ("/report", r"on a CPU"),
    ):
        assert re.search(rf" s  1\N{{MULTIPLICATION SIGN}}  GET {path} +{waits_for}", output), output
    assert re.search(r"^    shop\.py:\d+ search\n      re\.match\(", output, re.MULTILINE)
    words = " ".join(output.split())
    assert re.search(
        r" because: waits for GET http://127\.0\.0\.1:\d+/v2/charge \(127\.0\.0\.1:\d+, no answer yet\)", words
    )
    # Killed workers may need a moment to be gone.
    wait_until(lambda: is_gone(folder), "nothing is left")


def test_the_page_is_served_until_it_is_interrupted() -> None:
    """With --web its address is printed at the end; ^C is then an ordinary end."""
    with started(*WITH_GUNICORN, "--web") as demo:
        folder = folder_of(demo)
        assert demo.stdout is not None
        address = next(found[0] for line in demo.stdout if (found := re.search(r"http://127\.0\.0\.1:\d+/$", line)))
        with urllib.request.urlopen(address, timeout=60) as page:
            assert "GET /charge" in page.read().decode()
        demo.send_signal(signal.SIGINT)
        output, _ = demo.communicate()
    assert demo.returncode == 0, output
    assert output.splitlines()[-1].endswith("mysite.wsgi")
    wait_until(lambda: is_gone(folder), "nothing is left")


def test_an_interrupted_one_takes_everything_down() -> None:
    """^C in the middle leaves neither server nor folder behind."""
    with started(*WITH_GUNICORN) as demo:
        folder = folder_of(demo)
        demo.send_signal(signal.SIGINT)
        output, _ = demo.communicate()
    assert demo.returncode == 128 + signal.SIGINT, output
    # Killed workers may need a moment to be gone.
    wait_until(lambda: is_gone(folder), "nothing is left")

"""Behind a real server, report and command name a deadlock with its locks, and a thread that works for a request."""

from __future__ import annotations

import contextlib
import functools
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.servers import asking
from tests.support.programs import PROJECT, require_module
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import StartGunicorn

#: Its requests never end, so its workers are not waited for.
GTHREAD = ("--worker-class", "gthread", "--threads", "4", "--timeout", "60", "--graceful-timeout", "1")
GEVENT = ("--worker-class", "gevent", "--timeout", "60", "--graceful-timeout", "1")


@pytest.mark.parametrize("options", [GTHREAD, GEVENT], ids=["gthread", "gevent"])
def test_a_deadlock_is_named_by_the_snapshot_the_command_and_the_report(
    options: tuple[str, ...], gunicorn: StartGunicorn, base: str
) -> None:
    """And whoever waits for one of its locks is told who is inside that one; so it is of greenlets."""
    if options is GEVENT:
        require_module("gevent")
    server = gunicorn("tests.programs.locked:application", *options, env={"WSGI_TB_HARAKIRI": "1.5"})
    with contextlib.ExitStack() as requests:
        for path in ("/buy", "/refund", "/cart"):
            requests.enter_context(server.in_flight(path))
            wait_until(functools.partial(asking.serving, base, path), "it is served")

        def waits() -> dict[str, dict[str, Any]]:
            found = {each["request"]["path"]: each["request"]["waits_for"] for each in asking.serving(base)}
            return found if len(found) == 3 and all(found.values()) else {}

        seen = wait_until(waits, "all three are old enough")
        command = [sys.executable, "-m", "wsgi_tracebacker", "read", base]
        text = subprocess.run(command, cwd=PROJECT, check=True, capture_output=True, text=True).stdout
        log = server.wait_for_log(
            r"harakiri: GET /buy[^\n]*\n  because: (.*)\n(?:.*\n)*?2 other requests .*\n(.*\n.*\n)"
        )
    assert [seen[path]["kind"] for path in ("/buy", "/refund", "/cart")] == ["deadlock", "deadlock", "lock"]
    parts = {path: [(each["path"], each["has"], each["wants"]) for each in seen[path]["holders"]] for path in seen}
    buy, refund = ("/buy", "ledger", "stock"), ("/refund", "stock", "ledger")
    assert parts == {"/buy": [buy, refund], "/refund": [refund, buy], "/cart": [("/buy", None, None)]}
    assert seen["/cart"]["lock"] == "self.lock"
    # It goes on in the next line.
    assert seen["/buy"]["sentence"] in " ".join(text.split())
    assert log[1] == seen["/buy"]["sentence"]
    others = log[2].splitlines()
    for other, path, function in zip(others, ("/refund", "/cart"), ("refund", "Cart.show"), strict=True):
        place = function if sys.version_info >= (3, 11) else function.rpartition(".")[2]
        assert re.match(rf"  GET {path} \d.* s \(core \d\)  programs/locked\.py:\d+ {place}  ", other), other
        assert seen[path]["kind"] == "lock" or "deadlock: " in other


def test_an_import_that_another_request_does_is_named(gunicorn: StartGunicorn, base: str) -> None:
    """With the module, and the core of the one that imports it."""
    server = gunicorn("tests.programs.waiting:application", *GTHREAD)

    def waits(path: str) -> dict[str, Any]:
        found = asking.serving(base, path)
        known: dict[str, Any] | None = found[0]["request"]["waits_for"] if found else None
        return known or {}

    with server.in_flight("/imports_first"):
        assert wait_until(functools.partial(waits, "/imports_first"), "it imports")["kind"] == "sleep"
        with server.in_flight("/imports_second"):
            found = wait_until(functools.partial(waits, "/imports_second"), "it waits")
            [first] = asking.serving(base, "/imports_first")
    assert (found["kind"], found["call"]) == ("import", "tests.programs.sleeps_on_import")
    assert [(each["path"], each["core"]) for each in found["holders"]] == [("/imports_first", first["core"])]


def test_the_thread_of_an_async_view_is_named_and_shown(gunicorn: StartGunicorn, base: str, tmp_path: Path) -> None:
    """The request waits, and the other thread computes: it is not frozen."""
    gate = tmp_path / "gate"
    server = gunicorn("tests.programs.elsewhere:application", *GTHREAD, env={"WSGI_TB_HARAKIRI": "1.5"})
    with server.in_flight(f"/?{gate}"):
        try:
            log = server.wait_for_log(r"harakiri: GET /(?:.*\n)*?.*other request")
            command = [sys.executable, "-m", "wsgi_tracebacker", "read", base]
            text = subprocess.run(command, cwd=PROJECT, check=True, capture_output=True, text=True).stdout
            [thread] = asking.serving(base)
        finally:
            gate.touch()
    waits_for = thread["request"]["waits_for"]
    assert waits_for["kind"] == "other_thread"
    assert f"because: {waits_for['sentence']}\n" in log[0]
    assert "verdict: waiting: " in log[0]
    assert re.search(r"elsewhere\.py:\d+ compute_until\n", log[0])
    assert re.search(r"elsewhere\.py:\d+ compute_until\n", text)
    assert [note["text"] for note in thread["request"]["notes"]] == ["computing"]

"""A deadlock behind a real server: the report and the snapshot name it, its requests and its locks."""

from __future__ import annotations

import contextlib
import functools
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from tests.servers import asking
from tests.support.programs import PROJECT
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from tests.conftest import StartGunicorn

#: Its requests never end, so its workers are not waited for.
GTHREAD = ("--worker-class", "gthread", "--threads", "4", "--timeout", "60", "--graceful-timeout", "1")


def test_a_deadlock_is_named_by_the_snapshot_the_command_and_the_report(gunicorn: StartGunicorn, base: str) -> None:
    """And whoever waits for one of its locks is told who is inside that one."""
    server = gunicorn("tests.programs.locked:application", *GTHREAD, env={"WSGI_TB_HARAKIRI": "1.5"})
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
        log = server.wait_for_log(r"harakiri: GET /buy[^\n]*\n  because: (.*)\n")
    assert [seen[path]["kind"] for path in ("/buy", "/refund", "/cart")] == ["deadlock", "deadlock", "lock"]
    parts = {path: [(each["path"], each["has"], each["wants"]) for each in seen[path]["holders"]] for path in seen}
    buy, refund = ("/buy", "ledger", "stock"), ("/refund", "stock", "ledger")
    assert parts == {"/buy": [buy, refund], "/refund": [refund, buy], "/cart": [("/buy", None, None)]}
    assert seen["/cart"]["lock"] == "self.lock"
    assert seen["/buy"]["sentence"] in text
    assert log[1] == seen["/buy"]["sentence"]

"""What goes wrong around a worker, for real: its disk is full, its black box is deleted.

Each time requests are served on with the same answers, what is wrong is said once, and when it is over the worker can
be read again.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from typing import TYPE_CHECKING

from tests.servers import asking
from tests.servers.faulty import can_be_read, check_served, look_on, said, wait_until_read
from tests.support import black_boxes
from tests.support.programs import cannot_be_tried
from tests.support.waiting import wait_until
from wsgi_tracebacker.wire.black_box import file_names, table_rows

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers.faulty import StartFaulty
    from tests.support.servers import Gunicorn


def as_root(base: str) -> None:
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        cannot_be_tried("only root can mount a file system of its own")
    if subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode:
        cannot_be_tried("file systems cannot be mounted here")
    os.mkdir(os.path.dirname(base))


def mounted(base: str, options: str, then: str = "true") -> list[str]:
    """A command that runs another one with a small file system of its own in the folder of ``base``."""
    folder = os.path.dirname(base)
    script = f'mount -t tmpfs -o {options} tmpfs {folder} && {then} && exec "$@"'
    return ["unshare", "-m", "sh", "-c", script, "sh"]


def seen_from_outside(server: Gunicorn, base: str) -> str:
    return f"/proc/{server.pid}/root{base}"


def test_its_disk_is_full(faulty: StartFaulty, base: str, short_path: Path) -> None:
    """No byte for the card: one warning, nothing half-written is left, and the socket comes with the first free one."""
    base = str(short_path / "run" / "tb")
    as_root(base)
    filled = os.path.join(os.path.dirname(base), "everything")
    before = mounted(base, "size=64k", f"(cat /dev/zero >{filled} 2>/dev/null || true)")
    server = faulty(base, before=before)
    outside = seen_from_outside(server, base)
    look_on(server)
    [warning] = said(server)
    assert "No space left on device" in warning
    # It tries again at each tick, and a card is there for the moment of a try.
    wait_until(lambda: asking.files(outside) == [], lambda: f"nothing is left: {asking.files(outside)}")
    os.truncate(f"/proc/{server.pid}/root{filled}", 0)
    wait_until_read(outside)
    check_served(server)
    assert said(server) == [warning]


def test_its_black_box_is_deleted(faulty: StartFaulty, base: str, tmp_path: Path) -> None:
    """As logging out does with a user's shared memory: it is made anew, with what is in flight, and a death is told."""
    server = faulty(base)
    gate = tmp_path / "gate"
    with server.in_flight(f"/wait/for/it?{gate}"):
        wait_until(lambda: asking.serving(base, "/wait/for/it"), "it is in flight")
        black_boxes.remove(base)
        table = black_boxes.path_of(base, 1, file_names.TABLE)
        wait_until(table.exists, "there is a table again")
        check_served(server)

        def row_paths() -> list[str]:
            content = table.read_bytes()
            return [row.path for row in table_rows.decode_rows(content, content)[0]]

        wait_until(lambda: row_paths() == ["/wait/for/it"], lambda: f"it has the request: {row_paths()}")
        assert can_be_read(base)
        [pid] = server.workers()
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: server.workers() not in ([], [pid]), "there is a successor")
        check_served(server)
        told = server.wait_for_log(r"worker 1, pid (\d+), died with 1 request in flight[^\n]*\n  GET (\S+)")
        assert (int(told[1]), told[2]) == (pid, "/wait/for/it")
    assert len(said(server)) == 1

"""A second and a third user of the machine, and the command as root runs it, with an eye on what it touches."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.support.programs import PROJECT, cannot_be_tried

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Users that no machine has; no account is needed to be one.
STRANGER, BYSTANDER = 54321, 54322

#: Runs the command, and writes whatever it opened, connected to and signalled to the descriptor that is its first
#: argument. A descriptor that only stands for a thing (O_PATH) opens nothing; what is opened through one is noted by
#: what it stands for.
WATCHED = """
import json, os, sys
EVENTS = int(sys.argv.pop(1))
O_PATH, OPENED_AGAIN = getattr(os, "O_PATH", 0o10000000), "/proc/self/fd/"
def note(event, arguments):
    if event == "open" and isinstance(arguments[2], int) and arguments[2] & O_PATH:
        return
    if event == "open" and isinstance(arguments[0], str) and arguments[0].startswith(OPENED_AGAIN):
        arguments = (os.readlink(arguments[0]), *arguments[1:])
    if event == "open" or event.startswith(("os.kill", "os.remove", "os.rename", "os.link", "os.symlink", "os.mkdir",
            "os.chmod", "os.chown", "os.truncate", "os.utime", "signal.", "socket.connect", "fcntl.", "subprocess.",
            "os.exec", "os.fork", "os.system")):
        if event.startswith("open") and not isinstance(arguments[0], (str, bytes)):
            return
        os.write(EVENTS, json.dumps([event, [str(argument) for argument in arguments]]).encode() + b"\\n")
from wsgi_tracebacker.cli.main import main
# What may be imported late is not the question.
import json, wsgi_tracebacker.reader.unanswered.examine, wsgi_tracebacker.cli.verbs.read
import wsgi_tracebacker.wire.documents.postmortem_json
import signal
if hasattr(signal, "pidfd_send_signal"):  # PyPy has none
    send = signal.pidfd_send_signal
    def sending(*arguments):
        note("signal.pidfd_send_signal", arguments)
        return send(*arguments)
    signal.pidfd_send_signal = sending
sys.addaudithook(note)
main()
"""


def needs_root() -> None:
    """Only root can be two users; CI is root."""
    if os.geteuid() != 0:
        cannot_be_tried("only root can become another user")


def as_stranger(what: str, *arguments: str, uid: int = STRANGER) -> list[str]:
    """The command line of ``tests/programs/stranger.py``."""
    return [sys.executable, "-m", "tests.programs.stranger", str(uid), what, *arguments]


def tries(*paths: str, uid: int = STRANGER) -> dict[str, dict[str, str]]:
    """What another user can do with these paths."""
    done = subprocess.run(as_stranger("try", *paths, uid=uid), cwd=PROJECT, capture_output=True, check=True, timeout=60)
    found: dict[str, dict[str, str]] = json.loads(done.stdout)
    return found


@dataclass(frozen=True)
class Watched:
    """One run of the command."""

    code: int
    out: bytes
    err: bytes
    #: Audit events with their arguments, as text.
    events: Sequence[tuple[str, list[str]]]

    @property
    def opened(self) -> set[str]:
        return {arguments[0] for event, arguments in self.events if event == "open"}

    @property
    def sent(self) -> list[list[str]]:
        """Signals."""
        return [arguments for event, arguments in self.events if event.startswith(("os.kill", "signal."))]


def watched(*arguments: str) -> Watched:
    """Run ``wsgi-tb`` as ourselves, and note what it touches."""
    with tempfile.TemporaryFile() as events:
        number = events.fileno()
        command = [sys.executable, "-c", WATCHED, str(number), *arguments]
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, check=False, timeout=60, pass_fds=[number])
        events.seek(0)
        noted = [tuple(json.loads(line)) for line in events]
    return Watched(done.returncode, done.stdout, done.stderr, noted)

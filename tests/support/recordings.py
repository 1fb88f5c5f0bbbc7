"""``wsgi-tb record`` as a process, and waiting for what it has looked at."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.programs import PROJECT, default_signals
from tests.support.waiting import wait_until
from wsgi_tracebacker.wire.profiles import raw

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from wsgi_tracebacker.model.recording import Recording

#: For a machine on which much else runs.
_SECONDS = 60.0


@contextlib.contextmanager
def recording(base: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A command that has begun to record; it goes on until it is interrupted, unless the arguments end it."""
    command = [sys.executable, "-m", "wsgi_tracebacker", "record", base, "-o", f"{base}.jsonl", "-d", "600"]
    with subprocess.Popen(
        [*command, *arguments],
        cwd=PROJECT,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=default_signals,  # noqa: PLW1509
    ) as process:
        try:
            assert process.stderr is not None
            assert process.stderr.readline().startswith("recording ")
            yield process
        finally:
            process.kill()


def finished(base: str, process: subprocess.Popen[str]) -> tuple[Recording, str]:
    """What it recorded, and what it said in the end."""
    err = process.communicate(timeout=_SECONDS)[1]
    assert process.returncode == 0, err
    with open(f"{base}.jsonl", encoding="utf-8") as file:
        return raw.parse(file), err


def interrupted(base: str, process: subprocess.Popen[str]) -> tuple[Recording, str]:
    """The same, after Ctrl-C."""
    process.send_signal(signal.SIGINT)
    return finished(base, process)


def wait_for_looks(process: subprocess.Popen[str], pids: Collection[int], looks: int = 30) -> None:
    """Until so many looks were taken at each of these workers: the recorder sleeps between two."""
    wait_until(lambda: all(_is_reading(process.pid, pid) for pid in pids), f"{pids} are read", _SECONDS)
    before = _sleeps(process.pid)
    wait_until(lambda: _sleeps(process.pid) >= before + looks, "it has looked at them", _SECONDS)


def _is_reading(recorder: int, pid: int) -> bool:
    folder, links = f"/proc/{recorder}/fd", []
    for each in os.listdir(folder):
        with contextlib.suppress(FileNotFoundError):
            links.append(os.readlink(f"{folder}/{each}"))
    return f"/proc/{pid}/mem" in links


def _sleeps(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])

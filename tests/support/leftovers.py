"""What this process holds, so that a test can prove that it gave all of it back."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, fields
from pathlib import Path

from tests.support import black_boxes
from tests.support.servers import children_of


@dataclass(frozen=True, slots=True)
class Holdings:
    """Everything that could be left behind, each thing in words that name it."""

    threads: frozenset[str]
    #: Threads that the kernel knows; Python does not list those that were started below it.
    kernel_threads: frozenset[str]
    children: frozenset[str]
    descriptors: frozenset[str]
    files: frozenset[str]

    def beyond(self, earlier: Holdings) -> dict[str, list[str]]:
        """What is here and was not earlier, by kind."""
        more = {
            field.name: sorted(getattr(self, field.name) - getattr(earlier, field.name)) for field in fields(Holdings)
        }
        return {kind: things for kind, things in more.items() if things}


def holdings(base: str | None = None) -> Holdings:
    """What this process holds now; of files those of workers of a base."""
    return Holdings(
        threads=frozenset(f"{thread.name} ({thread.ident})" for thread in threading.enumerate()),
        kernel_threads=frozenset(os.listdir("/proc/self/task")),
        children=frozenset(f"{pid}: {_command_line(pid)}" for pid in children_of(os.getpid())),
        descriptors=frozenset(_descriptors()),
        files=frozenset(map(str, _files_of(base) if base is not None else ())),
    )


def _files_of(base: str) -> list[Path]:
    return [*Path(base).parent.glob(f"{Path(base).name}*"), *black_boxes.files_of(base)]


def _descriptors() -> list[str]:
    found = []
    for number in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:  # the one that read the folder
            continue
        # libffi maps itself once more for the first function that ctypes makes, and keeps its own file open for that.
        if "/libffi.so" not in target:
            found.append(f"{number} -> {target}")
    return found


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except (FileNotFoundError, ProcessLookupError):
        return "ended"

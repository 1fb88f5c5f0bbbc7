"""The files that outlive a worker, found and taken away by whoever made it die."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from wsgi_tracebacker.errors import FormatError
from wsgi_tracebacker.wire.black_box import file_names
from wsgi_tracebacker.wire.documents import card_json

SHARED_MEMORY = Path("/dev/shm")


def files_of(base: str) -> list[Path]:
    """What workers of a base have left in shared memory, whoever they ran as."""
    of_base = file_names.file_name(base, 0, 0, "").split(".")[2]
    return sorted(SHARED_MEMORY.glob(f"wsgi_tracebacker.*.{of_base}.*"))


def named_in(folder: Path) -> list[Path]:
    """What is left in shared memory of the workers whose cards are left in a folder."""
    bases = set()
    for card in folder.rglob("*.worker"):
        with contextlib.suppress(OSError, FormatError):
            if card.is_file():
                bases.add(card_json.decode(card.read_bytes()).base)
    return [path for base in sorted(bases) for path in files_of(base)]


def path_of(base: str, number: int, kind: str) -> Path:
    """Where a worker of ours keeps one of them."""
    return SHARED_MEMORY / file_names.file_name(base, number, os.geteuid(), kind)


def remove(base: str) -> None:
    for path in files_of(base):
        path.unlink(missing_ok=True)

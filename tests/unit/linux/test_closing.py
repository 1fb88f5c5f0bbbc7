"""Files that are opened only for a read, while the application closes all descriptors."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from wsgi_tracebacker.linux import proc
from wsgi_tracebacker.wire.documents import card_json
from wsgi_tracebacker.worker import code_places, startup_warnings
from wsgi_tracebacker.worker.blackbox import box_files
from wsgi_tracebacker.worker.identity import Identity
from wsgi_tracebacker.worker.listening import slot

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

OWN = Identity.of_this_process("", None, "")

READS: dict[str, tuple[Callable[[str], object], object]] = {
    "a file of /proc": (lambda base: proc.read("/proc/self/stat"), b""),
    "source": (lambda base: code_places.read_source(__file__), None),
    "what a dead worker left": (lambda base: box_files.read(f"{base}.left"), (None, None)),
    "what is kept": (lambda base: box_files.write(f"{base}.new", b"content"), False),
    "cards of this process": (
        lambda base: startup_warnings._numbers_of(OWN._replace(base=base), 2),
        [],
    ),
    "a card": (lambda base: slot.read_card(base, 1), None),
}


@pytest.mark.parametrize(("read", "answer"), READS.values(), ids=READS.keys())
def test_a_file_that_is_closed_meanwhile_gives_nothing_and_no_error(
    read: Callable[[str], object], answer: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An application that closes all descriptors may do so between any two of our calls, on another thread."""
    base = str(tmp_path / "tb")
    for path in (f"{base}.left", card_json.card_path(base, 1)):
        with open(path, "wb") as file:
            file.write(b"{}")
    closed: list[int] = []

    def first_closing(function: Callable[..., Any]) -> Callable[..., Any]:
        def called(descriptor: int, *arguments: Any) -> Any:
            if not closed:
                closed.append(descriptor)
                os.close(descriptor)
            return function(descriptor, *arguments)

        return called

    with monkeypatch.context() as patch:
        for name in ("read", "fstat", "fchmod"):
            patch.setattr(os, name, first_closing(getattr(os, name)))
        assert read(base) == answer
    assert len(closed) == 1

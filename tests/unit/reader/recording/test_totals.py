"""What a recording adds up, in bounded memory."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from wsgi_tracebacker.model.recording import EXACT, ON_CPU
from wsgi_tracebacker.model.snapshot import Frame
from wsgi_tracebacker.reader.recording import record
from wsgi_tracebacker.reader.recording.worker_key import WorkerKey

if TYPE_CHECKING:
    import pytest


def test_beyond_the_most_stacks_those_that_are_known_keep_their_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only new ones are added up without calls."""
    monkeypatch.setattr(record, "_MAX_STACKS", 2)
    known, new, newer = ((Frame("shop.py", line, "view"),) for line in (1, 2, 3))
    totals, key = record.Totals(), WorkerKey(4026531836, 4711, 1)
    for frames in (known, new, newer, known, newer):
        totals.look((key, 0.0, 1.0), "GET", "/pay", ON_CPU, frames, EXACT)
    worker: Any = SimpleNamespace(card=SimpleNamespace(number=1), pid=4711, seconds_of_a_look=lambda: 0.01)
    found = [(stack.frames, stack.samples) for stack in totals.stacks({key: worker})]
    assert sorted(found) == [((), 2), (known, 2), (new, 1)]

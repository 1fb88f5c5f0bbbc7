"""Documents from files and from stdin."""

from __future__ import annotations

import io
import json
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from tests.unit.wire.documents.test_reading_json import GENUINE, SILENT
from wsgi_tracebacker.errors import NoWorkersFound
from wsgi_tracebacker.reader.elsewhere import documents, gathered
from wsgi_tracebacker.reader.elsewhere.documents import is_document

if TYPE_CHECKING:
    from pathlib import Path

SECOND = GENUINE.replace(b"web1", b"web2")


def test_documents_stand_in_lines(tmp_path: Path) -> None:
    """What is none is a line for the operator, and the next one is read."""
    file = tmp_path / "documents"
    file.write_bytes(GENUINE + b"\nssh: no route to host\n" + SECOND)
    found = gathered.from_documents([str(file)])
    assert [snapshot.worker.host for snapshot in found.workers] == ["web1", "web2"]
    assert [one.host for one in found.unanswered] == ["web1", "web2"]
    complaint, *silent = found.failures
    assert complaint.startswith(f"{file}, line 3: ")
    assert silent == [f"{host}: worker 3 (pid 4711, /tb3): timed out: {SILENT.message}" for host in ("web1", "web2")]


def test_one_document_may_be_written_over_several_lines(tmp_path: Path) -> None:
    """As jq writes it."""
    file = tmp_path / "document"
    file.write_text(json.dumps(json.loads(GENUINE), indent=2))
    [snapshot] = gathered.from_documents([str(file)]).workers
    assert snapshot.worker.host == "web1"


def test_documents_come_from_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is called - on the command line."""
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(SECOND)))
    [snapshot] = gathered.from_documents(["-"]).workers
    assert snapshot.worker.host == "web2"


def test_without_any_document_nothing_is_found(tmp_path: Path) -> None:
    """The error says what was there instead, or that nothing was."""
    file = tmp_path / "file"
    file.write_text("nothing of ours\n")
    with pytest.raises(NoWorkersFound, match="line 1: the document is not JSON"):
        gathered.from_documents([str(file)])
    file.write_text("")
    with pytest.raises(NoWorkersFound, match="no document"):
        gathered.from_documents([str(file)])
    with pytest.raises(NoWorkersFound, match="cannot be read: No such file"):
        gathered.from_documents([str(tmp_path / "nowhere")])


def test_a_document_that_is_too_long_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it fills the memory."""
    monkeypatch.setattr(documents, "MAX_DOCUMENT_BYTES", len(GENUINE) - 1)
    file = tmp_path / "file"
    file.write_bytes(GENUINE)
    with pytest.raises(NoWorkersFound, match="line 1: longer than"):
        gathered.from_documents([str(file)])


def test_only_some_numbers_are_wanted(tmp_path: Path) -> None:
    """Of workers, and of those that did not answer."""
    file = tmp_path / "file"
    file.write_bytes(GENUINE)
    found = gathered.from_documents([str(file)], numbers=(1,))
    assert (len(found.workers), found.unanswered) == (1, ())


def test_a_file_is_told_from_a_base(tmp_path: Path) -> None:
    """A card is no document, and neither is what is not there."""
    file = tmp_path / "monday.json"
    card = tmp_path / "tb1.worker"
    for path in (file, card):
        path.write_text("")
    paths = ("-", str(file), str(card), str(tmp_path), str(tmp_path / "tb"), "\0")
    assert [is_document(path) for path in paths] == [True, True, False, False, False, False]

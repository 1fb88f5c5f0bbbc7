"""The document of wsgi-tb read, as another host prints it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given

from tests.unit.wire.hostile import documents, renders
from tests.unit.wire.strategies import snapshots
from wsgi_tracebacker.errors import FormatError
from wsgi_tracebacker.model.reading import Document, Unanswered
from wsgi_tracebacker.model.snapshot import Frame, Snapshot, Stack, Worker
from wsgi_tracebacker.wire.documents import reading_json, snapshot_json

FRAME = Frame("/app.py", 1, "f", "pass")
SNAPSHOT = Snapshot(Worker(number=1, base="/tb"), 0.0, (Stack("a", frames=(FRAME, FRAME)),))
SILENT = Unanswered(3, "/tb3", 4711, "timed out", "busy", message="it did not answer within 1 s")
GENUINE = reading_json.encode([snapshot_json.encode(SNAPSHOT).rstrip()], [SILENT], "web1")


def on(host: str | None) -> Document:
    worker = SNAPSHOT.worker._replace(host=host)
    return Document((SNAPSHOT._replace(worker=worker),), (SILENT._replace(host=host),))


def test_a_document_comes_back_with_its_host() -> None:
    """The host that it names, unless the operator calls it something else."""
    assert reading_json.decode(GENUINE) == on("web1")
    assert reading_json.decode(GENUINE, "10.0.0.1") == on("10.0.0.1")


def test_a_document_of_several_hosts_has_one_for_each_worker() -> None:
    """As it was merged."""
    [first], [second] = on("web1").workers, on("web2").workers
    documents_ = [snapshot_json.encode(each).rstrip() for each in (first, second)]
    merged = reading_json.encode(documents_, [SILENT._replace(host="web3")], None)
    assert reading_json.decode(merged) == Document((first, second), (SILENT._replace(host="web3"),))


def test_a_workers_own_document_is_one_too() -> None:
    """As curl had it from the socket: it names no host."""
    assert reading_json.decode(snapshot_json.encode(SNAPSHOT)) == on(None)._replace(unanswered=())


def test_the_name_of_a_host_is_cut() -> None:
    """It is beside each request."""
    long = GENUINE.replace(b'"host":"web1"', b'"host":"%s"' % (b"w" * 1000))
    assert reading_json.decode(long) == on("w" * 253)


def test_equal_frames_are_one_value() -> None:
    """A thousand workers stand at the same few lines, and take the memory of one."""
    first, second = (reading_json.decode(GENUINE).workers[0].stacks[0] for _ in range(2))
    assert first.frames[0] is first.frames[1] is second.frames[0]


@pytest.mark.parametrize(
    "data", [b"", b"[]", b'{"schema":2}', GENUINE.replace(b'"unanswered":[', b'"unanswered":[1,'), GENUINE[:-9]]
)
def test_what_is_no_document_is_refused(data: bytes) -> None:
    """By one kind of error."""
    with pytest.raises(FormatError):
        reading_json.decode(data)


@given(documents(json.loads(GENUINE)))
def test_any_document_is_a_value_or_a_format_error(data: bytes) -> None:
    """And every snapshot that was accepted can be shown."""
    try:
        found = reading_json.decode(data)
    except FormatError:
        return
    for snapshot in found.workers:
        renders(snapshot)


@given(snapshots)
def test_what_is_written_is_read(snapshot: Snapshot) -> None:
    """Whatever a worker has."""
    data = reading_json.encode([snapshot_json.encode(snapshot).rstrip()], [], None)
    [found] = reading_json.decode(data).workers
    assert found._replace(worker=found.worker._replace(host=snapshot.worker.host)) == snapshot

"""What was gathered of workers: of this machine, from documents, or from other hosts.

What comes from elsewhere is shown and nothing else: no file is read for it, and no process is signalled.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from wsgi_tracebacker.errors import FormatError, NoWorkersFound
from wsgi_tracebacker.model.reading import Document, Unanswered
from wsgi_tracebacker.model.snapshot import Snapshot  # noqa: TC001  (a value needs it)
from wsgi_tracebacker.reader.elsewhere import documents
from wsgi_tracebacker.wire.documents import reading_json, snapshot_json

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from wsgi_tracebacker.reader.elsewhere.hosts import Hosts, Ran
    from wsgi_tracebacker.reader.survey import Answer, Survey


def document_of(found: Survey | Gathered) -> bytes:
    """The document of ``wsgi-tb read --format json`` for the workers of this machine, or of others."""
    if isinstance(found, Gathered):
        return reading_json.encode(
            [snapshot_json.encode(worker).rstrip() for worker in found.workers], found.unanswered, None
        )
    survey, here = found, os.uname().nodename
    snapshots = [answer.snapshot for answer in survey.answers if answer.snapshot is not None]
    workers = [snapshot_json.encode(with_host(snapshot, here)).rstrip() for snapshot in snapshots]
    silent = [unanswered_of(answer)._replace(host=here) for answer in survey.answers if answer.error is not None]
    return reading_json.encode(workers, silent, here)


def with_host(snapshot: Snapshot, here: str) -> Snapshot:
    """With its host: this one, unless it has another."""
    worker = snapshot.worker
    return snapshot if worker.host else snapshot._replace(worker=worker._replace(host=here))


def unanswered_of(answer: Answer) -> Unanswered:
    """What a document says of a worker of this machine that did not answer."""
    assert answer.error is not None
    return Unanswered(
        number=answer.number,
        socket=answer.target.socket,
        pid=answer.pid,
        reason=answer.error.reason,
        state=answer.state,
        other_uid=answer.other_uid,
        message=str(answer.error),
    )


class Gathered(NamedTuple):
    """Workers, and what could not be had."""

    workers: tuple[Snapshot, ...]
    unanswered: tuple[Unanswered, ...]
    #: A line for each worker or host that did not answer, and for what is no document.
    failures: tuple[str, ...]


def from_documents(arguments: Sequence[str], numbers: Collection[int] = ()) -> Gathered:
    """From files, and stdin. Raises NoWorkersFound if there is no document at all."""
    return gather(documents.read(arguments), numbers)


def from_hosts(
    there: Hosts, bases: Sequence[str], numbers: Collection[int] = (), options: Sequence[str] = ()
) -> Gathered:
    """From the workers behind these bases on each host; ``options`` are more words for ``wsgi-tb read`` there."""
    # It loads subprocess and urllib, which nobody needs who asks for the JSON of workers here.
    from wsgi_tracebacker.reader.elsewhere import hosts  # noqa: PLC0415

    words = ("read", "--format", "json", "--percent-encoded", *options, *map(hosts.encode, bases))
    return gather((printed(ran) for ran in hosts.run(there, words)), numbers)


def printed(ran: Ran) -> Document:
    """What a host printed. One that printed no document has not answered."""
    reason = "unreachable"
    try:
        if ran.stdout:
            found = reading_json.decode(ran.stdout, ran.target)
            if ran.exit_code and not found.unanswered:
                # One of several bases has no workers: only its stderr says so.
                found = found._replace(unanswered=(Unanswered(host=ran.target, message=ran.complaint),))
            return found
        complaint = ran.complaint or f"it printed nothing and ended with {ran.exit_code}"
    except FormatError as error:
        reason, complaint = "bad reply", str(error)
    return Document((), (Unanswered(reason=reason, host=ran.target, message=complaint),))


def gather(found: Iterable[Document | str], numbers: Collection[int]) -> Gathered:
    """Put documents together, and lines of text for what is none. Raises NoWorkersFound if there is nothing at all."""
    workers: list[Snapshot] = []
    unanswered: list[Unanswered] = []
    lines: list[str] = []
    for each in found:
        if isinstance(each, str):
            lines.append(each)
        else:
            workers += (worker for worker in each.workers if not numbers or worker.worker.number in numbers)
            unanswered += (one for one in each.unanswered if not numbers or one.number is None or one.number in numbers)
    if not workers and not unanswered:
        raise NoWorkersFound("\n".join(lines or ["no document of wsgi-tb read --format json is there"]))
    # Hosts answer in any order, and whoever reads this twice compares.
    workers.sort(key=lambda each: (each.worker.host or "", each.worker.base or "", each.worker.number or 0))
    unanswered.sort(key=lambda one: (one.host or "", one.number or 0))
    return Gathered(tuple(workers), tuple(unanswered), (*lines, *_failures(workers, unanswered)))


def _failures(workers: Sequence[Snapshot], unanswered: Sequence[Unanswered]) -> Iterator[str]:
    """A line for each that did not answer; for a dead worker only where none of its host answers."""
    answering = {snapshot.worker.host for snapshot in workers}
    for one in unanswered:
        if one.state != "dead" or one.host not in answering:
            yield ": ".join(filter(None, (_name(one), one.reason, one.message)))


def _name(one: Unanswered) -> str:
    host = "a host without a name" if one.host is None else one.host
    if one.socket is None:
        return host
    facts = [one.socket] if one.pid is None else [f"pid {one.pid}", one.socket]
    return f"{host}: worker{'' if one.number is None else f' {one.number}'} ({', '.join(facts)})"

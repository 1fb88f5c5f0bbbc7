"""Does the work of ``wsgi-tb read``: asks the workers and writes what they are doing, in one of four formats.

Workers of other hosts are shown in the same way, from their documents: those that ``wsgi-tb read`` printed there.

It is imported without click, which takes longer to load than all our own modules.

``--format json`` prints one document::

    {"schema": 1,
     "host": "web1",
     "workers": [...],       the snapshot document of each worker that answered, as GET /snapshot gives it
     "unanswered": [         the workers that did not
       {"number": 3, "socket": "/tmp/tbsocket3", "pid": 4711, "reason": "timed out", "state": "busy",
        "other_uid": null, "host": "web1", "message": "it did not answer within 1 s"}]}

``reason`` is ``dead``, ``no permission``, ``timed out``, ``bad reply``, ``memory not readable`` or ``unreachable``;
``state`` is ``busy``,
``stalled``, ``stopped``, ``disk wait``, ``dead``, ``alive`` or ``unknown``; ``number`` and ``pid`` are null if
unknown; ``other_uid`` is the user of its socket, null for the reader's own.

A worker that did not answer is in ``workers`` too if its table of requests can be read: with ``"source": "table"``
and no frames, with ``"source": "memory"`` if its memory could be read too, or with ``"source": "faulthandler"`` if it
was proven stalled and asked for its stacks. Its ``state``
says which; the ``phase`` of its requests is ``unknown``.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from wsgi_tracebacker.analysis.selection import Selection
from wsgi_tracebacker.cli import output
from wsgi_tracebacker.cli.options.arguments import bases_or_default
from wsgi_tracebacker.errors import Misuse, NoWorkersFound
from wsgi_tracebacker.model.snapshot import Frame, Snapshot, Stack
from wsgi_tracebacker.text.screens.reading import DEFAULT_LIMIT, Answered, Options

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from wsgi_tracebacker.model.groups import Group, ServedRequest
    from wsgi_tracebacker.model.reading import Unanswered
    from wsgi_tracebacker.reader.elsewhere.gathered import Gathered
    from wsgi_tracebacker.reader.elsewhere.hosts import Hosts
    from wsgi_tracebacker.reader.survey import Survey


class Found(NamedTuple):
    """All workers at one moment, of this machine or of others."""

    workers: tuple[Answered, ...]
    unanswered: tuple[Unanswered, ...]
    #: For people, a line for each worker or host that did not answer.
    failures: tuple[str, ...]
    exit_code: int

    def snapshots(self) -> Iterator[Snapshot]:
        return (worker.snapshot for worker in self.workers)


def show(
    bases: tuple[str, ...] = (),
    *,
    numbers: tuple[int, ...] = (),
    timeout_seconds: float | None = None,
    form: str = "text",
    older_seconds: float | None = None,
    path_pattern: str | None = None,
    by: str = "place",
    order: str = "age",
    limit: int = DEFAULT_LIMIT,
    full: bool = False,
    all_threads: bool = False,
    no_signal: bool = False,
    no_memory: bool = False,
    from_outside: bool = False,
    times: int = 1,
    every_seconds: float = 1.0,
    for_seconds: float | None = None,
    colour: str = "auto",
    hosts: Hosts | None = None,
) -> int:
    """Ask the workers, write the result, and return the exit code."""
    is_for_people = form in ("text", "html")

    def ask_here() -> Found:
        from wsgi_tracebacker.reader.survey import survey

        found = survey(
            bases_or_default(bases),
            timeout_seconds,
            numbers,
            may_signal=not no_signal,
            may_read_memory=not no_memory,
            from_outside=from_outside,
        )
        if is_for_people:
            found = found._replace(answers=tuple([answer.for_people() for answer in found.answers]))
        return _of_survey(found)

    flags = {"--no-signal": no_signal, "--no-memory": no_memory, "--from-outside": from_outside}
    if timeout_seconds is not None:
        flags |= {"--timeout": True, f"{timeout_seconds:.3f}": True}
    words = [word for word, is_given in flags.items() if is_given]
    if for_seconds is not None and (form != "json" or times > 1):
        raise Misuse("--for goes with --format json, and not with --times")
    ask = _elsewhere(bases, numbers, times, hosts, words) or ask_here
    selection = Selection(older_seconds, path_pattern)
    if for_seconds is not None:
        return _print_on(ask, selection, every_seconds, for_seconds)
    earlier = _earlier(ask, times, every_seconds)
    found = ask()
    what = "request" if by == "none" else by
    if form == "json":
        output.write_bytes(_json_document(found, selection, earlier))
    elif form == "uwsgi":
        output.write_bytes(_uwsgi(found, selection))
    elif form == "html":
        options = Options(limit=limit, what=what, full=full, all_threads=all_threads)
        output.write_bytes(_html(found, earlier, selection, by, order, options))
    else:
        from wsgi_tracebacker.text.palette import COLOURED, PLAIN

        options = Options(
            columns=output.columns(),
            limit=limit,
            what=what,
            full=full,
            all_threads=all_threads,
            palette=COLOURED if output.wants_colour(colour, sys.stdout) else PLAIN,
        )
        output.write_text(_text(found, earlier, selection, by, order, options))
    for line in found.failures:
        output.fail(line)
    return found.exit_code


def _print_on(ask: Callable[[], Found], selection: Selection, every_seconds: float, for_seconds: float) -> int:
    """A document a line until the time is over, or until nobody reads them any more."""
    import gc
    import time

    from wsgi_tracebacker.model.reading import Unanswered

    # It lasts, unlike other readings, for which ``main`` turns it off.
    gc.enable()
    ends_at = time.monotonic() + for_seconds
    while True:
        began_at = time.monotonic()
        try:
            found = ask()
        except NoWorkersFound as error:
            none = tuple(Unanswered(message=line) for line in str(error).splitlines())
            found = Found((), none, (), NoWorkersFound.exit_code)
        sys.stdout.buffer.write(_json_document(found, selection, ()))
        sys.stdout.buffer.flush()
        if began_at + every_seconds > ends_at:
            return 0
        time.sleep(max(0.0, began_at + every_seconds - time.monotonic()))


def _elsewhere(
    bases: tuple[str, ...], numbers: tuple[int, ...], times: int, hosts: Hosts | None, options: list[str]
) -> Callable[[], Found] | None:
    """What takes one look at workers of other hosts, or at documents; None: those of this machine are meant."""
    if hosts is not None:
        from wsgi_tracebacker.reader.elsewhere.gathered import from_hosts

        there = hosts
        return lambda: _of_others(from_hosts(there, bases, numbers, options))
    if any(_may_be_document(base) for base in bases):
        from wsgi_tracebacker.reader.elsewhere.documents import is_document
        from wsgi_tracebacker.reader.elsewhere.gathered import from_documents

        are_documents = [is_document(base) for base in bases]
        if any(are_documents):
            if not all(are_documents):
                raise Misuse("documents and bases cannot be read together")
            if times > 1:
                raise Misuse("--times looks at workers several times, which documents do not allow")
            return lambda: _of_others(from_documents(bases, numbers))
    return None


def _may_be_document(base: str) -> bool:
    """Whether it is stdin or a file, so that it is worth to load what knows more."""
    return base == "-" or os.path.isfile(base)


def _of_survey(survey: Survey) -> Found:
    """The workers of this machine."""
    lines, is_complete = output.failures(survey)
    answers = [answer for answer in survey.answers if answer.snapshot is not None]
    return Found(
        tuple(Answered(answer.snapshot, answer.other_uid) for answer in answers if answer.snapshot is not None),
        _unanswered(survey),
        tuple(lines),
        0 if is_complete else output.EXIT_UNANSWERED,
    )


def _unanswered(survey: Survey) -> tuple[Unanswered, ...]:
    silent = [answer for answer in survey.answers if answer.error is not None]
    if not silent:
        return ()
    # Imported only here: nearly always every worker answers, and the command has to start soon.
    from wsgi_tracebacker.reader.elsewhere.gathered import unanswered_of

    return tuple(map(unanswered_of, silent))


def _of_others(gathered: Gathered) -> Found:
    workers = tuple(map(Answered, gathered.workers))
    code = output.EXIT_UNANSWERED if gathered.failures else 0
    return Found(workers, gathered.unanswered, gathered.failures, code)


def _earlier(ask: Callable[[], Found], times: int, every_seconds: float) -> list[list[ServedRequest]]:
    """The requests of all looks but the last one, each a while before the next."""
    if times < 2:
        return []
    import time

    from wsgi_tracebacker.analysis.places import served_requests

    looks = []
    for _ in range(times - 1):
        began_at = time.monotonic()
        looks.append(served_requests(ask().snapshots()))
        time.sleep(max(0.0, began_at + every_seconds - time.monotonic()))
    return looks


def _text(
    found: Found, earlier: list[list[ServedRequest]], selection: Selection, by: str, order: str, options: Options
) -> Iterator[str]:
    from wsgi_tracebacker.text.screens.reading import lines

    workers, groups, left_out = _grouped(found, earlier, selection, by, order)
    return lines(workers, groups, left_out, options) if workers else iter(())


def _html(
    found: Found, earlier: list[list[ServedRequest]], selection: Selection, by: str, order: str, options: Options
) -> bytes:
    from wsgi_tracebacker.text.screens.page import page

    workers, groups, left_out = _grouped(found, earlier, selection, by, order)
    lines = page(workers, groups, left_out, options, found.failures)
    # Not as stdout is encoded: the page says which encoding it has.
    return "".join([f"{line}\n" for line in lines]).encode("utf-8")


def _grouped(
    found: Found, earlier: list[list[ServedRequest]], selection: Selection, by: str, order: str
) -> tuple[list[Answered], list[Group], int]:
    """The workers that can be shown, their requests put together, and how many of these were not asked for."""
    from wsgi_tracebacker.analysis.places import group, served_requests

    workers, left_out = [], 0
    for worker in found.workers:
        snapshot, others = selection.wanted(worker.snapshot, with_resting=True)
        workers.append(worker._replace(snapshot=snapshot))
        left_out += others
    requests = served_requests(worker.snapshot for worker in workers)
    if earlier:
        from wsgi_tracebacker.analysis.several_looks import compare

        requests = compare([*earlier, requests])
    return workers, group(requests, by, order), left_out


def _uwsgi(found: Found, selection: Selection) -> bytes:
    from wsgi_tracebacker.wire import uwsgi_text

    return b"".join(
        uwsgi_text.encode(
            _named_for_user(_request_for_stack(stack, worker.snapshot), worker.other_uid)
            for stack in selection.wanted(worker.snapshot)[0].stacks
        )
        for worker in found.workers
    )


def _named_for_user(stack: Stack, other_uid: int | None) -> Stack:
    """Put another user's uid into the name of a thread: uWSGI's text has no other place for it."""
    return stack if other_uid is None else stack._replace(name=f"{stack.name} (uid {other_uid})")


def _request_for_stack(stack: Stack, snapshot: Snapshot) -> Stack:
    """Put the request of a thread that has no frames, because it comes from a table, into a frame of its own.

    uWSGI's text has no threads without frames, so the request would not be shown.
    """
    request = stack.request
    if request is None or stack.frames or snapshot.source == "worker":
        return stack
    ids = f"ident {stack.ident}  native id {stack.native_id}"
    line = f"{request.method} {request.path}  {request.age_seconds:.1f} s  {ids}"
    return stack._replace(frames=(Frame(f"<{snapshot.state}, no answer>", None, "request", line),))


def _json_document(
    found: Found,
    selection: Selection,
    earlier: Sequence[Sequence[ServedRequest]],
) -> bytes:
    """The document of ``--format json``; with earlier looks each request has ``looks``."""
    import json

    from wsgi_tracebacker.reader.elsewhere.gathered import with_host
    from wsgi_tracebacker.wire.documents import reading_json, snapshot_json

    here = os.uname().nodename
    chosen = [selection.wanted(snapshot)[0] for snapshot in found.snapshots()]
    documents = [snapshot_json.encode(with_host(snapshot, here)).rstrip() for snapshot in chosen]
    if earlier:
        documents = [
            json.dumps(_with_looks(json.loads(document), snapshot, earlier)).encode("ascii")
            for document, snapshot in zip(documents, chosen, strict=True)
        ]
    unanswered = [one if one.host else one._replace(host=here) for one in found.unanswered]
    hosts = {snapshot.worker.host or here for snapshot in chosen} | {one.host for one in unanswered}
    return reading_json.encode(documents, unanswered, hosts.pop() if len(hosts) == 1 else None)


def _with_looks(
    document: dict[str, Any], snapshot: Snapshot, earlier: Sequence[Sequence[ServedRequest]]
) -> dict[str, Any]:
    from wsgi_tracebacker.analysis.places import served_requests
    from wsgi_tracebacker.analysis.several_looks import compare

    compared = {id(each.stack): each.looks for each in compare([*earlier, served_requests([snapshot])])}
    for thread, stack in zip(document["threads"], snapshot.stacks, strict=True):
        looks = compared.get(id(stack))
        if thread["request"] is not None and looks is not None:
            thread["request"]["looks"] = {"same": looks.same, "of": looks.of}
    return document

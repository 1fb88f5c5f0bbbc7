"""Does the work of ``wsgi-tb read``: asks the workers and writes what they are doing, in one of four formats.

It is imported without click, which takes longer to load than all our own modules.

``--format json`` prints one document::

    {"schema": 1,
     "workers": [...],       the snapshot document of each worker that answered, as GET /snapshot gives it
     "unanswered": [         the workers that did not
       {"number": 3, "socket": "/tmp/tbsocket3", "pid": 4711, "reason": "timed out", "state": "busy",
        "other_uid": null}]}

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

import sys
from typing import TYPE_CHECKING, Any

from wsgi_tracebacker.analysis.selection import Selection
from wsgi_tracebacker.cli import output
from wsgi_tracebacker.cli.plain import bases_or_default
from wsgi_tracebacker.model.snapshot import SCHEMA, Frame, Snapshot, Stack
from wsgi_tracebacker.text.screens.reading import DEFAULT_LIMIT, Answered, Options

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from wsgi_tracebacker.model.groups import Group, ServedRequest
    from wsgi_tracebacker.reader.survey import Answer, Survey


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
    colour: str = "auto",
) -> int:
    """Ask the workers, write the result, and return the exit code."""
    from wsgi_tracebacker.reader.survey import survey

    def ask() -> Survey:
        found = survey(
            bases_or_default(bases),
            timeout_seconds,
            numbers,
            may_signal=not no_signal,
            may_read_memory=not no_memory,
            from_outside=from_outside,
        )
        if form in ("text", "html"):
            found = found._replace(answers=tuple([answer.for_people() for answer in found.answers]))
        return found

    earlier = _earlier(ask, times, every_seconds)
    found = ask()
    selection = Selection(older_seconds, path_pattern)
    what = "request" if by == "none" else by
    if form == "json":
        output.write_bytes(json_document(found, selection, earlier))
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
    return output.end(found)


def _earlier(ask: Callable[[], Survey], times: int, every_seconds: float) -> list[list[ServedRequest]]:
    """The requests of all looks but the last one, each a while before the next."""
    if times < 2:
        return []
    import time

    from wsgi_tracebacker.analysis.places import served_requests

    looks = []
    for _ in range(times - 1):
        began_at = time.monotonic()
        looks.append(served_requests(_snapshots(ask())))
        time.sleep(max(0.0, began_at + every_seconds - time.monotonic()))
    return looks


def _text(
    found: Survey, earlier: list[list[ServedRequest]], selection: Selection, by: str, order: str, options: Options
) -> Iterator[str]:
    from wsgi_tracebacker.text.screens.reading import lines

    workers, groups, left_out = _grouped(found, earlier, selection, by, order)
    return lines(workers, groups, left_out, options) if workers else iter(())


def _html(
    found: Survey, earlier: list[list[ServedRequest]], selection: Selection, by: str, order: str, options: Options
) -> bytes:
    from wsgi_tracebacker.text.screens.page import page

    workers, groups, left_out = _grouped(found, earlier, selection, by, order)
    lines = page(workers, groups, left_out, options, output.failures(found))
    # Not as stdout is encoded: the page says which encoding it has.
    return "".join([f"{line}\n" for line in lines]).encode("utf-8")


def _grouped(
    found: Survey, earlier: list[list[ServedRequest]], selection: Selection, by: str, order: str
) -> tuple[list[Answered], list[Group], int]:
    """The workers that can be shown, their requests put together, and how many of these were not asked for."""
    from wsgi_tracebacker.analysis.places import group, served_requests

    workers, left_out = [], 0
    for answer in found.answers:
        if answer.snapshot is not None:
            snapshot, others = selection.wanted(answer.snapshot, with_resting=True)
            workers.append(Answered(snapshot, answer.other_uid))
            left_out += others
    requests = served_requests(worker.snapshot for worker in workers)
    if earlier:
        from wsgi_tracebacker.analysis.several_looks import compare

        requests = compare([*earlier, requests])
    return workers, group(requests, by, order), left_out


def _uwsgi(found: Survey, selection: Selection) -> bytes:
    from wsgi_tracebacker.wire import uwsgi_text

    return b"".join(
        uwsgi_text.encode(
            _named_for_user(_request_for_stack(stack, answer.snapshot), answer.other_uid)
            for stack in selection.wanted(answer.snapshot)[0].stacks
        )
        for answer in found.answers
        if answer.snapshot is not None
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


def json_document(
    found: Survey,
    selection: Selection = Selection(),  # noqa: B008  (it never changes)
    earlier: Sequence[Sequence[ServedRequest]] = (),
) -> bytes:
    """The document of ``--format json``; with earlier looks each request has ``looks``."""
    import json

    from wsgi_tracebacker.wire import snapshot_json

    chosen = [selection.wanted(snapshot)[0] for snapshot in _snapshots(found)]
    documents = [snapshot_json.encode(snapshot).rstrip() for snapshot in chosen]
    if earlier:
        documents = [
            json.dumps(_with_looks(json.loads(document), snapshot, earlier)).encode("ascii")
            for document, snapshot in zip(documents, chosen, strict=True)
        ]
    unanswered = json.dumps([_unanswered(answer) for answer in found.answers if answer.error is not None])
    return b'{"schema":%d,"workers":[%s],"unanswered":%s}\n' % (
        SCHEMA,
        b",".join(documents),
        unanswered.encode("ascii"),
    )


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


def _unanswered(answer: Answer) -> dict[str, object]:
    assert answer.error is not None
    return {
        "number": answer.number,
        "socket": answer.target.socket,
        "pid": answer.pid,
        "reason": answer.error.reason,
        "state": answer.state,
        "other_uid": answer.other_uid,
    }


def _snapshots(found: Survey) -> Iterator[Snapshot]:
    return (answer.snapshot for answer in found.answers if answer.snapshot is not None)

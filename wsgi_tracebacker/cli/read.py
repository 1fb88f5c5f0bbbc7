"""``wsgi-tb read``: the stacks of all workers.

``--format json`` prints one document::

    {"schema": 1,
     "workers": [...],       the snapshot document of each worker that answered, as GET /snapshot gives it
     "unanswered": [         the workers that did not
       {"number": 3, "socket": "/tmp/tbsocket3", "pid": 4711, "reason": "timed out", "state": "busy"}]}

``reason`` is ``dead``, ``no permission``, ``timed out``, ``bad reply`` or ``unreachable``; ``state`` is ``busy``,
``stalled``, ``stopped``, ``disk wait``, ``dead``, ``alive`` or ``unknown``; ``number`` and ``pid`` are null where
nobody knows.

A worker that did not answer is in ``workers`` too if its table of requests can be read: with ``"source": "table"``
and no frames, or with ``"source": "faulthandler"`` if it was proven stalled and asked for its stacks. Its ``state``
says which; the ``phase`` of its requests is ``unknown``.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from wsgi_tracebacker.cli import output
from wsgi_tracebacker.cli.options import EXIT_CODES, Seconds, bases_or_default, workers
from wsgi_tracebacker.model import SCHEMA, Snapshot

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wsgi_tracebacker.reader.survey import Answer, Survey

EPILOG = f"""\b
Examples:
  wsgi-tb read                          what every worker is doing
  wsgi-tb read /run/app/tb -w 2         worker 2 of another base
  wsgi-tb read --older 10               only requests older than 10 seconds
  wsgi-tb read --all                    idle and background threads too
  wsgi-tb read --no-signal              never signal a stalled worker
  wsgi-tb read --format json | jq '.workers[].threads[].request.path'

{EXIT_CODES}
"""


@click.command(epilog=EPILOG)
@workers
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "uwsgi"]),
    default="text",
    show_default=True,
    help="For people, for programs, or as uWSGI's tracebacker writes it.",
)
@click.option(
    "--older",
    "older_seconds",
    metavar="SECONDS",
    type=Seconds(min=0),
    help="Only requests that are at least so old.",
)
@click.option("--all", "all_threads", is_flag=True, help="Show idle threads and those that serve no requests too.")
@click.option(
    "--no-signal",
    "no_signal",
    is_flag=True,
    help="Do not ask stalled workers for their stacks by signal: show their table of requests.",
)
@click.option(
    "--color",
    "--colour",
    "colour",
    type=click.Choice(["auto", "always", "never"]),
    default="auto",
    show_default=True,
    help="auto: on a terminal, unless NO_COLOR is set.",
)
def read(
    *,
    bases: tuple[str, ...],
    numbers: tuple[int, ...],
    timeout_seconds: float,
    form: str,
    older_seconds: float | None,
    all_threads: bool,
    no_signal: bool,
    colour: str,
) -> int:
    """Show what the workers are doing: every request in flight, with its stack.

    BASE is the path that the middleware was given (the workers are BASE1, BASE2, ...), SOCKET one worker's socket,
    uWSGI's too. Without either it is $WSGI_TB_SOCKET, or else /tmp/tbsocket.

    A worker that does not answer is shown from its table of requests: as busy or, if it is proven that Python cannot
    run in it, as stalled, with its stacks.
    """
    from wsgi_tracebacker.reader.survey import survey

    found = survey(bases_or_default(bases), timeout_seconds, numbers, may_signal=not no_signal)
    if form == "json":
        output.write_bytes(_json(found, older_seconds))
    elif form == "uwsgi":
        output.write_bytes(_uwsgi(found, older_seconds))
    else:
        output.write_text(_text(found, older_seconds, all_threads, output.wants_colour(colour, sys.stdout)))
    return output.end(found)


def _text(found: Survey, older_seconds: float | None, all_threads: bool, colour: bool) -> Iterator[str]:
    from wsgi_tracebacker.formats import traceback

    palette = traceback.COLOURED if colour else traceback.PLAIN
    separator: tuple[str, ...] = ()
    for snapshot in _snapshots(found):
        yield from separator
        yield from traceback.lines(snapshot, all_threads=all_threads, older_seconds=older_seconds, palette=palette)
        separator = ("",)


def _uwsgi(found: Survey, older_seconds: float | None) -> bytes:
    from wsgi_tracebacker.formats import uwsgi

    return b"".join(uwsgi.encode(_older(snapshot, older_seconds).stacks) for snapshot in _snapshots(found))


def _json(found: Survey, older_seconds: float | None) -> bytes:
    import json

    from wsgi_tracebacker.formats import json as documents

    workers = b",".join(documents.encode(_older(snapshot, older_seconds)).rstrip() for snapshot in _snapshots(found))
    unanswered = json.dumps([_unanswered(answer) for answer in found.answers if answer.error is not None])
    return b'{"schema":%d,"workers":[%s],"unanswered":%s}\n' % (SCHEMA, workers, unanswered.encode("ascii"))


def _unanswered(answer: Answer) -> dict[str, object]:
    assert answer.error is not None
    return {
        "number": answer.number,
        "socket": answer.target.socket,
        "pid": answer.pid,
        "reason": answer.error.reason,
        "state": answer.state,
    }


def _snapshots(found: Survey) -> Iterator[Snapshot]:
    return (answer.snapshot for answer in found.answers if answer.snapshot is not None)


def _older(snapshot: Snapshot, seconds: float | None) -> Snapshot:
    """Only the threads whose request is at least so old, where that is known; all of them for None."""
    if seconds is None:
        return snapshot
    return replace(
        snapshot,
        stacks=tuple(
            stack
            for stack in snapshot.stacks
            if (stack.request is not None and stack.request.age_seconds >= seconds)
            or (snapshot.source == "uwsgi" and stack.core is not None)
        ),
    )

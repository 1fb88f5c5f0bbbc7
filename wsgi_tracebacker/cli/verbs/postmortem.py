"""``wsgi-tb postmortem``: shows what workers were doing when they died.

``--format json`` prints ``{"schema": 1, "postmortems": [...]}``, the latest death first, each with ``postmortem`` (the
version of these keys, 2), ``number``, ``base``, ``pid``, ``server``, ``application``, ``started_at``,
``last_written_at`` (when its last request began), ``found_at``, ``requests`` (the oldest), ``unlisted_requests`` (how
many more), ``torn_requests`` (how many more, of which nothing else is known), ``unrecorded_cores``, ``stacks`` (its
last reports and stacks, or null), ``stacks_written_at`` (when the last of them was written, or null) and ``uid`` (the
owner of its file). Each request has ``core``, ``native_id``,
``method``, ``path``, ``started_at``, ``remote_address`` and ``request_id``.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from wsgi_tracebacker.cli import output
from wsgi_tracebacker.cli.options.arguments import bases_or_default
from wsgi_tracebacker.cli.options.shared import bases_argument, worker_option
from wsgi_tracebacker.model.snapshot import SCHEMA

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wsgi_tracebacker.reader.dead.postmortems import Found

#: There is no file of the base.
_EXIT_UNKNOWN = 3

EPILOG = """\b
Examples:
  wsgi-tb postmortem
  wsgi-tb postmortem /run/app/tb -w 2
  wsgi-tb postmortem --format json | jq '.postmortems[].requests[].path'

\b
Exit codes:
  0  shown, or nobody died with requests in flight
  1  some file was not read, or its worker may live; stderr says which and why
  2  the command was not understood
  3  nothing is known of the base: no worker, living or dead
  4  the output could not be written
"""


@click.command(epilog=EPILOG)
@bases_argument
@worker_option
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
def postmortem(bases: tuple[str, ...], numbers: tuple[int, ...], form: str) -> int:
    """Show what workers that died were serving.

    For each worker number it shows the latest death with requests in flight, from the postmortem that the successor
    wrote or, if there is no successor yet, from the dead worker's files. Without BASE it is $WSGI_TB_SOCKET, or else
    every base that has a worker and that you may read, or else /tmp/tbsocket.
    """
    from wsgi_tracebacker.reader.dead import postmortems

    named = bases_or_default(bases)
    found = postmortems.find(named, numbers)
    if form == "json":
        for part in _json(found):
            output.write_bytes(part)
    else:
        output.write_text(_text(found))
    for fault in found.faults:
        output.fail(fault)
    if found.faults:
        return output.EXIT_UNANSWERED
    if not found.postmortems:
        what = "died with requests in flight" if found.is_known else "is known, living or dead"
        output.fail(f"no worker of {', '.join(named)} {what}")
    return 0 if found.is_known else _EXIT_UNKNOWN


def _text(found: Found) -> Iterator[str]:
    from wsgi_tracebacker.text.postmortem import lines

    for number, each in enumerate(found.postmortems):
        if number:
            yield ""
        yield from lines(each, own_uid=os.geteuid())


def _json(found: Found) -> Iterator[bytes]:
    from wsgi_tracebacker.wire.documents.postmortem_json import encode

    yield b'{"schema": %d, "postmortems": [' % SCHEMA
    separator = b""
    for each in found.postmortems:
        yield separator + encode(each).rstrip()
        separator = b", "
    yield b"]}\n"

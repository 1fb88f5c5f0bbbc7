"""``wsgi-tb clean``: removes what dead workers left."""

from __future__ import annotations

import click

from wsgi_tracebacker.cli import output
from wsgi_tracebacker.cli.options.arguments import are_named, bases_or_default
from wsgi_tracebacker.cli.options.shared import bases_argument

EPILOG = """\b
Examples:
  wsgi-tb postmortem         first see what they served
  wsgi-tb clean
  wsgi-tb clean /run/app/tb

\b
Exit codes:
  0  nothing is left of any dead worker
  1  some files could not be removed (named on stderr)
  2  the command was not understood
  4  the output could not be written
"""


@click.command(epilog=EPILOG)
@bases_argument
def clean(bases: tuple[str, ...]) -> int:
    """Remove the files of dead workers: sockets, cards, black boxes and postmortems.

    Only files of your own user are removed, and none of a worker that lives. Without BASE it is $WSGI_TB_SOCKET, or
    else every base that you may read.
    """
    from wsgi_tracebacker.reader.dead import cleaning
    from wsgi_tracebacker.reader.finding import everywhere
    from wsgi_tracebacker.reader.finding.discovery import DEFAULT_BASE
    from wsgi_tracebacker.wire.escape import printable

    is_named = are_named(bases)
    named = bases_or_default(bases) if is_named else tuple({DEFAULT_BASE, *(base.path for base in everywhere.bases())})
    cleaned = cleaning.clean(named, orphans=not is_named)
    output.write_text(f"removed {printable(socket)}" for socket in sorted(cleaned.removed))
    for fault in cleaned.faults:
        output.fail(fault)
    if not cleaned.removed and not cleaned.faults:
        output.fail("no dead worker has left anything")
    return output.EXIT_UNANSWERED if cleaned.faults else 0

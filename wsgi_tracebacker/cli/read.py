"""``wsgi-tb read``: shows the stacks of all workers. Defines the options; ``show`` does the work."""

from __future__ import annotations

from typing import Any

import click

from wsgi_tracebacker.cli.options import EXIT_CODES, Seconds, workers
from wsgi_tracebacker.cli.show import show

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
def read(**options: Any) -> int:
    """Show what the workers are doing: every request in flight, with its stack.

    BASE is the path that the middleware was given (the workers are BASE1, BASE2, ...), SOCKET one worker's socket,
    uWSGI's too. Without either it is $WSGI_TB_SOCKET, or else /tmp/tbsocket.

    A worker that does not answer is shown from its table of requests: as busy or, if it is proven that Python cannot
    run in it, as stalled, with its stacks.
    """
    return show(**options)

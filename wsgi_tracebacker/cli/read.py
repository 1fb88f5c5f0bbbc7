"""``wsgi-tb read``: shows the stacks of all workers. Defines the options; ``show`` does the work."""

from __future__ import annotations

from typing import Any

import click

from wsgi_tracebacker.analysis.places import GROUPINGS, ORDERS
from wsgi_tracebacker.cli.options import EXIT_CODES, Seconds, workers
from wsgi_tracebacker.cli.plain import COLOURS, FORMATS, MAX_SECONDS, MAX_TIMES
from wsgi_tracebacker.cli.show import show
from wsgi_tracebacker.text.screens.reading import DEFAULT_LIMIT

EPILOG = f"""\b
Examples:
  wsgi-tb read                          what every worker is doing
  wsgi-tb read /run/app/tb -w 2         worker 2 of another base
  wsgi-tb read --older 10               only requests older than 10 seconds
  wsgi-tb read --path '/checkout/*'     only requests of these paths
  wsgi-tb read --full --limit 0         every frame of every request
  wsgi-tb read --by route --sort route  the routes instead of the places
  wsgi-tb read --times 3 --every 1      which requests are stuck, or move
  wsgi-tb read --all                    idle and background threads too
  wsgi-tb read --no-signal              never signal a stalled worker
  wsgi-tb read --format html >now.html  a page for a ticket
  wsgi-tb read --format json | jq '.workers[].threads[].request.path'

{EXIT_CODES}
"""


@click.command(epilog=EPILOG)
@workers
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMATS),
    default="text",
    show_default=True,
    help="For people, as text or as one page; for programs; or as uWSGI's tracebacker writes it.",
)
@click.option(
    "--older",
    "older_seconds",
    metavar="SECONDS",
    type=Seconds(min=0),
    help="Only requests that are at least so old.",
)
@click.option(
    "--path", "path_pattern", metavar="GLOB", help="Only requests whose whole path matches; * also matches slashes."
)
@click.option(
    "--by",
    type=click.Choice(GROUPINGS),
    default="place",
    show_default=True,
    help="Put those together that stand at the same place, wait for the same, or have the same route; or none.",
)
@click.option(
    "--sort",
    "order",
    type=click.Choice(ORDERS),
    default="age",
    show_default=True,
    help="The oldest first, most CPU first, by worker and core, or by route.",
)
@click.option(
    "--limit",
    metavar="N",
    type=click.IntRange(min=0),
    default=DEFAULT_LIMIT,
    show_default=True,
    help="Show so many places; 0: all.",
)
@click.option(
    "--times",
    metavar="N",
    type=click.IntRange(min=1, max=MAX_TIMES),
    default=1,
    show_default=True,
    help="Look so often, and say of each request whether it is stuck or moves.",
)
@click.option(
    "--every",
    "every_seconds",
    metavar="SECONDS",
    type=Seconds(min=0, min_open=True, max=MAX_SECONDS),
    default=1.0,
    show_default=True,
    help="With --times: from one look to the next.",
)
@click.option("--full", is_flag=True, help="Show every frame and every request, nothing folded.")
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
    type=click.Choice(COLOURS),
    default="auto",
    show_default=True,
    help="auto: on a terminal, unless NO_COLOR is set.",
)
def read(**options: Any) -> int:
    """Show what the workers are doing: every request in flight, put together by place, and the stack of each place.

    BASE is the path that the middleware was given (the workers are BASE1, BASE2, ...), SOCKET one worker's socket,
    uWSGI's too, PID a process: its workers. Without any it is $WSGI_TB_SOCKET, or else every base that has a worker and
    that you may read.

    A worker that does not answer is shown from its table of requests: as busy or, if it is proven that Python cannot
    run in it, as stalled, with its stacks.
    """
    return show(**options)

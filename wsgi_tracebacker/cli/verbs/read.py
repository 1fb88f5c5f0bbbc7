"""``wsgi-tb read``: shows the stacks of all workers. The command for click; ``show`` does the work."""

from __future__ import annotations

from typing import Any

import click

from wsgi_tracebacker.cli.options.hosts import hosts_options
from wsgi_tracebacker.cli.options.read import OPTIONS
from wsgi_tracebacker.cli.options.shared import EXIT_CODES, bases_argument, with_options
from wsgi_tracebacker.cli.show import show

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
  wsgi-tb read --from-outside           without asking them: from their memory
  wsgi-tb read --no-signal              never signal a stalled worker
  wsgi-tb read --format html >now.html  a page for a ticket
  wsgi-tb read monday.json -            documents of --format json
  wsgi-tb read /run/app/tb --via 'ssh {{}}' --host web1 --host web2
  wsgi-tb read --format json | jq '.workers[].threads[].request.path'

{EXIT_CODES}
"""


@click.command(epilog=EPILOG)
@bases_argument
@with_options(OPTIONS, show)
@hosts_options
def read(**options: Any) -> int:
    """Show what the workers are doing: every request in flight, put together by place, and the stack of each place.

    BASE is the path that the middleware was given (the workers are BASE1, BASE2, ...), SOCKET one worker's socket,
    uWSGI's too, PID a process: its workers. Without any it is $WSGI_TB_SOCKET, or else every base that has a worker and
    that you may read.

    A worker that does not answer is shown from its table of requests and its memory: as busy or, if Python cannot run
    in it, as stalled, with the thread that holds the GIL. Where its memory may not be read, it is asked for its stacks
    by signal once it is proven stalled.
    """
    return show(**options)

"""``wsgi-tb demo``: a shop with four troubles, and what this command says of them."""

from __future__ import annotations

import http.client
import signal
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

import click

from wsgi_tracebacker.cli import output
from wsgi_tracebacker.errors import LibraryMissing

if TYPE_CHECKING:
    from types import FrameType

EPILOG = """\b
Examples:
  wsgi-tb demo
  wsgi-tb demo --web
  python -m wsgi_tracebacker demo

\b
Exit codes:
  0  everything was shown
  1  the demonstration failed (stderr says how)
"""


@click.command(epilog=EPILOG)
@click.option("--web", is_flag=True, help="Then serve the page of wsgi-tb web on the shop, until Ctrl-C ends it.")
def demo(*, web: bool) -> int:
    """Show in ten seconds what this command is for.

    Runs a small shop under gunicorn, or under the standard library's server if gunicorn is not installed, and asks for
    five pages that hang: in a deadlock, on a silent server, on a CPU, in a C call. Everything is ended again.
    """
    from wsgi_tracebacker.demo import play

    if web and find_spec("werkzeug") is None:
        raise LibraryMissing("--web needs werkzeug: pip install 'wsgi-tracebacker[web]'")
    signal.signal(signal.SIGTERM, _end)
    # Under nohup it is ignored.
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        signal.signal(signal.SIGHUP, _end)

    def write(text: str) -> None:
        output.write_text([text.removesuffix("\n")])

    try:
        play.play(write, colour=output.wants_colour("auto", sys.stdout), web=web)
    except (play.DemoError, OSError, http.client.HTTPException) as error:
        output.fail(f"the demonstration failed: {error}")
        return output.EXIT_UNANSWERED
    return 0


def _end(signal_number: int, _: FrameType | None) -> None:
    """Make a signal an ordinary end, so that everything is taken down."""
    sys.exit(128 + signal_number)

"""The entry point of ``wsgi-tb``: runs a verb, and turns its result or error into an exit code.

A usual ``read`` or ``check`` runs without click (see ``option``), and so does the answer to a word that is no verb.
"""

from __future__ import annotations

import gc
import os
import sys
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, NoReturn

from wsgi_tracebacker.cli.options.option import parse
from wsgi_tracebacker.cli.output import EXIT_INTERRUPTED, fail, have_streams
from wsgi_tracebacker.cli.verb_names import correction
from wsgi_tracebacker.errors import CannotWrite, Misuse, TracebackerError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from wsgi_tracebacker.cli.options.option import Option

#: Set by a shell that completes a command line, see click.shell_completion.
COMPLETION = "_WSGI_TB_COMPLETE"


def main() -> NoReturn:
    """Run the command and end the process."""
    # What a verb makes lives to its end, but for top's. To look for garbage among it is a tenth of a usual read.
    gc.disable()
    code = run_command()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    # Not sys.exit(): to take everything apart that ends anyway takes the interpreter a seventh of a usual read.
    os._exit(code)


def run_command() -> int:
    """Run the command line of this process, and return its exit code."""
    have_streams()
    try:
        if COMPLETION not in os.environ:
            if (run_plainly := without_click(sys.argv[1:])) is not None:
                return run_plainly()
            if (wrong := correction(sys.argv[1:])) is not None:
                raise Misuse(wrong)
        from wsgi_tracebacker.cli.group import run

        return run()
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The help was read through ``head``.
        return fail(None)
    except TracebackerError as error:
        fail(str(error))
        return error.exit_code
    except OSError as error:
        # Raised where click writes: the help, the version.
        fail(f"stopped by the system: {error}")
        return CannotWrite.exit_code


def without_click(arguments: Sequence[str]) -> partial[int] | None:
    """What a usual command line of the verbs that have to start fast asks for; None: click has to parse it."""
    work: Callable[..., int]
    options: Sequence[Option]
    if arguments[:1] == ["read"]:
        from wsgi_tracebacker.cli import show
        from wsgi_tracebacker.cli.options import read as read_options

        work, options = show.show, read_options.OPTIONS
    elif arguments[:1] == ["check"]:
        from wsgi_tracebacker.cli import probe

        work, options = probe.check, probe.OPTIONS
    else:
        return None
    values = parse(options, arguments[1:])
    return None if values is None else partial(work, **values)

"""The entry point of ``wsgi-tb``: runs a verb, and turns its result or error into an exit code.

A usual ``wsgi-tb read`` runs without click (see ``read_options``), and so does the answer to a word that is no verb.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from wsgi_tracebacker.cli.output import EXIT_INTERRUPTED, fail, have_streams
from wsgi_tracebacker.cli.read_options import COMPLETION, plain_read
from wsgi_tracebacker.cli.verb_names import correction
from wsgi_tracebacker.errors import CannotWrite, Misuse, TracebackerError


def main() -> NoReturn:
    """Run the command and end the process."""
    sys.exit(_run())


def _run() -> int:
    have_streams()
    try:
        options = plain_read(sys.argv[1:], os.environ)
        if options is not None:
            from wsgi_tracebacker.cli.show import show

            return show(**options)
        if COMPLETION not in os.environ and (wrong := correction(sys.argv[1:])) is not None:
            raise Misuse(wrong)
        from wsgi_tracebacker.cli.verbs import run

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

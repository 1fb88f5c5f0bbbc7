"""``wsgi-tb check``: one line and an exit code for probes. The command for click; ``probe`` does the work."""

from __future__ import annotations

from typing import Any

import click

from wsgi_tracebacker.cli import probe
from wsgi_tracebacker.cli.options import bases_argument, with_options

EPILOG = """\b
Examples:
  wsgi-tb check /run/app/tb --allow-none              for a liveness probe
  wsgi-tb check /run/app/tb --saturated 1 --waiting 10    for readiness
  wsgi-tb check --oldest 60 --silent 0 --dead 0       for a monitor

\b
Exit codes:
  0  healthy
  1  not healthy: no worker answers, or a limit is reached
  2  the command was not understood
  3  no worker was found (with --allow-none: 0)
  4  the output could not be written
"""


@click.command(epilog=EPILOG)
@bases_argument
@with_options(probe.OPTIONS, probe.check)
def check(**values: Any) -> int:
    """Check the workers in less than a second: one line, and an exit code.

    Without limits it fails only if no worker at all answers within half a second. BASE, SOCKET and PID are as for list.
    """
    return probe.check(**values)

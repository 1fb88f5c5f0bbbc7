"""``wsgi-tb check``: one line and an exit code for probes. The command for click; ``probe`` does the work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from wsgi_tracebacker.cli import output, probe
from wsgi_tracebacker.cli.options.hosts import hosts_options
from wsgi_tracebacker.cli.options.shared import bases_argument, with_options

if TYPE_CHECKING:
    from wsgi_tracebacker.reader.elsewhere.hosts import Hosts

EPILOG = """\b
Examples:
  wsgi-tb check /run/app/tb --allow-none              for a liveness probe
  wsgi-tb check /run/app/tb --saturated 1 --waiting 10    for readiness
  wsgi-tb check --oldest 60 --silent 0 --dead 0       for a monitor
  wsgi-tb check /run/app/tb --via 'ssh {}' --hosts FILE    a line for each

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
@hosts_options
def check(hosts: Hosts | None, **values: Any) -> int:
    """Check the workers in less than a second: one line, and an exit code.

    Without limits it fails only if no worker at all answers within half a second. BASE, SOCKET and PID are as for list.
    """
    return probe.check(**values) if hosts is None else _check_hosts(hosts, **values)


def _check_hosts(
    hosts: Hosts,
    *,
    bases: tuple[str, ...],
    evidence: str | None,
    allow_none: bool,
    oldest: float | None,
    saturated: float | None,
    waiting: int | None,
    silent: int | None,
    dead: int | None,
) -> int:
    """A line for each host; 1 if one of them is not healthy, or does not answer."""
    from wsgi_tracebacker.model.health import Limits
    from wsgi_tracebacker.reader.elsewhere import checks

    if evidence is not None:
        raise click.UsageError("--evidence is for this machine: it cannot be used with --via.")
    found = checks.check(hosts, bases, Limits(oldest, saturated, waiting, silent, dead), allows_none=allow_none)
    output.write_text(each.line for each in found)
    return 0 if all(each.is_healthy for each in found) else output.EXIT_UNANSWERED

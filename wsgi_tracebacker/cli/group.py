"""The click group of ``wsgi-tb``; it imports a verb's module only when that verb is run."""

from __future__ import annotations

from importlib import import_module

import click

from wsgi_tracebacker.cli.output import EXIT_INTERRUPTED
from wsgi_tracebacker.cli.verb_names import VERBS

EPILOG = """\b
Examples:
  wsgi-tb read                       all workers that you may read
  wsgi-tb read /run/app/tb --older 5 requests that are older than 5 seconds
  wsgi-tb read /tmp/tbsocket3        one socket; uWSGI's py-tracebacker sockets too
  wsgi-tb list                       one line per worker
  wsgi-tb list 4711                  the workers of a process, such as a master
  wsgi-tb top                        the same as a live view
  wsgi-tb web                        and as a page in the browser
  wsgi-tb check --oldest 60          one line and an exit code, for monitors
  wsgi-tb metrics --listen 127.0.0.1:9180    for Prometheus
  wsgi-tb postmortem                 what workers were doing when they died
  wsgi-tb demo                       what all this is for, in ten seconds

\b
Exit codes:
  0  every worker that lives answered, and each base has one
  1  some did not; each is named on stderr, with the reason
  2  the command was not understood
  3  no worker was found
  4  the output could not be written
"""


class _Verbs(click.Group):
    """A group that imports its commands when they are used."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        return sorted(VERBS)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        module = VERBS.get(cmd_name)
        if module is None:
            return None
        command = getattr(import_module(f"wsgi_tracebacker.cli.verbs.{module}"), module)
        assert isinstance(command, click.Command)
        return command


def _show_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from wsgi_tracebacker._version import __version__

        click.echo(f"wsgi-tb {__version__}")
        ctx.exit()


@click.group(cls=_Verbs, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Show the version."
)
def cli() -> None:
    """See what the workers of a WSGI server are doing right now.

    Workers are found by their base path: behind /tmp/tbsocket are the sockets /tmp/tbsocket1, /tmp/tbsocket2, ...
    """


def run() -> int:
    """Run the command line of this process, and return its exit code."""
    try:
        code = cli.main(prog_name="wsgi-tb", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        return EXIT_INTERRUPTED
    return code if isinstance(code, int) else 0

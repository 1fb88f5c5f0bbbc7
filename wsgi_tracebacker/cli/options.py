"""The arguments, options and help texts that more than one verb has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from wsgi_tracebacker.cli.plain import MAX_SECONDS

F = TypeVar("F", bound=Callable[..., Any])

#: The exit codes, for the help of each verb.
EXIT_CODES = """\b
Exit codes:
  0  every worker that lives answered, and each base has one
  1  some did not: no permission, timed out, ... (named on stderr)
  2  the command was not understood
  3  no worker was found
  4  the output could not be written"""


class Seconds(click.FloatRange):
    """A number of seconds; not ``nan``, which passes every comparison of a range."""

    name = "number of seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        seconds = super().convert(value, param, ctx)
        if seconds != seconds:  # noqa: PLR0124 - only nan is not equal to itself
            self.fail(f"{value!r} is not a number of seconds.", param, ctx)
        return seconds


#: BASE, SOCKET or PID; click does not check whether it can be read: that is no misuse of the command.
bases_argument = click.argument("bases", metavar="[BASE, SOCKET or PID]...", nargs=-1, type=click.Path(readable=False))

worker_option = click.option(
    "--worker",
    "-w",
    "numbers",
    metavar="N",
    type=click.IntRange(min=1),
    multiple=True,
    help="Only worker N; can be given more than once.",
)


def workers(command: F) -> F:
    """Add BASE..., --worker and --timeout to a command."""
    for decorate in (
        click.option(
            "--timeout",
            "timeout_seconds",
            metavar="SECONDS",
            type=Seconds(min=0, min_open=True, max=MAX_SECONDS),
            help="How long each worker may take to answer; all are asked at once.  [default: 1 if its table of"
            " requests can be shown instead, else 5]",
        ),
        worker_option,
        bases_argument,
    ):
        command = decorate(command)
    return command

"""The arguments and options that more than one verb has."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import click

from wsgi_tracebacker.reader.discovery import DEFAULT_BASE

F = TypeVar("F", bound=Callable[..., Any])

#: Five seconds are what a person waits without wondering; a worker that is not stuck answers in milliseconds.
_TIMEOUT_SECONDS = 5.0

#: The exit codes, for the help of each verb.
EXIT_CODES = """\b
Exit codes:
  0  every worker answered
  1  some did not: dead, no permission, timed out, ... (named on stderr)
  2  the command was not understood
  3  no worker was found"""


class Seconds(click.FloatRange):
    """A number of seconds; not ``nan``, which is on no side of any limit."""

    name = "number of seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        seconds = super().convert(value, param, ctx)
        if seconds != seconds:  # noqa: PLR0124 - only nan is not equal to itself
            self.fail(f"{value!r} is not a number of seconds.", param, ctx)
        return seconds


def workers(command: F) -> F:
    """Which workers: BASE..., --worker and --timeout."""
    for decorate in (
        click.option(
            "--timeout",
            "timeout_seconds",
            metavar="SECONDS",
            type=Seconds(min=0, min_open=True, max=3600),
            default=_TIMEOUT_SECONDS,
            show_default=True,
            help="How long each worker may take to answer; all are asked at once.",
        ),
        click.option(
            "--worker",
            "-w",
            "numbers",
            metavar="N",
            type=click.IntRange(min=1),
            multiple=True,
            help="Only worker N; can be given more than once.",
        ),
        click.argument("bases", metavar="[BASE or SOCKET]...", nargs=-1, type=click.Path()),
    ):
        command = decorate(command)
    return command


def bases_or_default(bases: tuple[str, ...]) -> tuple[str, ...]:
    """What was named, or else WSGI_TB_SOCKET, or else the base that the middleware has by default too."""
    # An empty variable is as good as none: that is how scripts unset one.
    return bases or (os.environ.get("WSGI_TB_SOCKET") or DEFAULT_BASE,)

"""The arguments, options and help texts that more than one verb has, for click."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from wsgi_tracebacker.cli.options import read as read_options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wsgi_tracebacker.cli.options.option import Option

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


def parse_address(_: click.Context, __: click.Parameter, value: str | None) -> tuple[str, int] | None:
    """Host and port of ``127.0.0.1:9180``, ``[::1]:9180`` or ``localhost:9180``: the callback of an option."""
    if value is None:
        return None
    host, colon, port = value.rpartition(":")
    if not (colon and host and port.isascii() and port.isdecimal() and int(port) < 65536):
        raise click.BadParameter(f"{value!r} is not HOST:PORT, as in 127.0.0.1:9180.")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise click.BadParameter(f"{value!r}: an IPv6 address stands in brackets, as in [::1]:9180.")
    return host.strip("[]"), int(port)


#: BASE, SOCKET or PID; click does not check whether it can be read: that is no misuse of the command.
bases_argument = click.argument("bases", metavar="[BASE, SOCKET or PID]...", nargs=-1, type=click.Path(readable=False))


def as_click(option: Option, default: object = None) -> Callable[[F], F]:
    """The decorator that adds an option to a command."""
    names = (*option.names, option.parameter)
    if option.metavar is None and not option.choices:
        return click.option(*names, is_flag=True, help=option.help)
    if option.choices:
        return click.option(
            *names, type=click.Choice(option.choices), default=default, show_default=True, help=option.help
        )
    value_type: Any = click.STRING
    if option.metavar == "N":
        value_type = click.IntRange(option.least, option.most)
    elif option.metavar == "SECONDS":
        value_type = Seconds(option.least, option.most, min_open=option.is_least_excluded)
    elif option.metavar == "SHARE":
        value_type = click.FloatRange(option.least, option.most, min_open=option.is_least_excluded)
    elif option.metavar == "FILE":
        value_type = click.Path(dir_okay=False)
    return click.option(
        *names,
        metavar=option.metavar,
        type=value_type,
        multiple=option.is_multiple,
        default=default,
        show_default=not option.is_multiple,
        help=option.help,
    )


def with_options(options: Sequence[Option], work: Callable[..., int]) -> Callable[[F], F]:
    """The decorator that adds these options; their defaults are those of the function that does the verb's work."""
    defaults = inspect.signature(work).parameters

    def decorate(command: F) -> F:
        # The one that is added last is the first of the help.
        for option in reversed(options):
            command = as_click(option, defaults[option.parameter].default)(command)
        return command

    return decorate


worker_option = as_click(read_options.WORKER)


def workers(command: F) -> F:
    """Add BASE..., --worker and --timeout to a command."""
    for decorate in (as_click(read_options.TIMEOUT), worker_option, bases_argument):
        command = decorate(command)
    return command

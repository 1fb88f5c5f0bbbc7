"""The options of the verbs that can ask workers of other hosts."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import click

from wsgi_tracebacker.errors import Misuse

F = TypeVar("F", bound=Callable[..., Any])


def hosts_options(command: F) -> F:
    """Add the options that name other hosts to a command, which gets them as ``hosts``, and its bases decoded."""

    @functools.wraps(command)
    def decorated(
        *,
        via: str | None,
        host: tuple[str, ...],
        hosts_file: str | None,
        remote_command: str,
        at_once: int,
        percent_encoded: bool,
        bases: tuple[str, ...],
        **options: Any,
    ) -> Any:
        from wsgi_tracebacker.reader.elsewhere import hosts

        if percent_encoded:
            bases = tuple(map(hosts.decode, bases))
            if options.get("route") is not None:
                options["route"] = hosts.decode(options["route"])
        if via is None and not host and hosts_file is None:
            return command(bases=bases, hosts=None, **options)
        if via is None:
            raise click.UsageError("--host and --hosts need --via, as in --via 'ssh {}'.")
        named = (*host, *(() if hosts_file is None else _names(hosts_file)))
        return command(bases=bases, hosts=hosts.parse(via, named, remote_command, at_once), **options)

    for decorate in (
        click.option("--percent-encoded", is_flag=True, help="Names are percent-encoded, as --via sends them."),
        click.option(
            "--at-once",
            metavar="N",
            type=click.IntRange(min=1, max=1000),
            default=32,
            show_default=True,
            help="How many hosts are asked at the same time; each has 10 seconds.",
        ),
        click.option(
            "--remote-command",
            metavar="WORDS",
            default="wsgi-tb",
            show_default=True,
            help="What is run on each host.",
        ),
        click.option(
            "--hosts", "hosts_file", metavar="FILE", type=click.Path(allow_dash=True), help="Hosts, a line each."
        ),
        click.option("--host", metavar="TARGET", multiple=True, help="A host; can be given more than once."),
        click.option("--via", metavar="COMMAND", help="How to run a command on a host, as in 'ssh {}'."),
    ):
        decorated = decorate(decorated)
    return cast("F", decorated)


def _names(path: str) -> list[str]:
    """The hosts in a file: a line each, empty lines and comments left out."""
    try:
        with click.open_file(path, encoding="utf-8", errors="surrogateescape") as file:
            lines = [line.partition("#")[0].strip() for line in file]
    except OSError as error:
        raise Misuse(f"{path} cannot be read: {error.strerror or error}") from None
    return [line for line in lines if line]

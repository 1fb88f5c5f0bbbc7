"""The options of ``wsgi-tb read``, each described once, and the parser of its usual command lines.

Loading click takes as long as everything else that the command does. So options that are spelt in full, with right
values, are understood here. Whatever else there is, click parses the whole command line, with the options that
``options`` makes of these, and says what is wrong with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from wsgi_tracebacker.model.groups import GROUPINGS, ORDERS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: The limits of ``--times``, and of every number of seconds.
MAX_TIMES = 100
MAX_SECONDS = 3600

#: Set by a shell that completes a command line, see click.shell_completion.
COMPLETION = "_WSGI_TB_COMPLETE"

#: No number that anybody means has more digits.
_MAX_DIGITS = 9


class Option(NamedTuple):
    """An option that takes a value: one of ``choices``, or what ``metavar`` says. Without either it is a flag."""

    #: Of ``show.show``, where its default is.
    parameter: str
    names: tuple[str, ...]
    help: str
    #: ``N`` is a whole number, ``SECONDS`` one with a fraction; the value of every other name is any text.
    metavar: str | None = None
    choices: tuple[str, ...] = ()
    #: The smallest number, and whether that one itself is too small; the greatest, None: any.
    least: int = 0
    is_least_excluded: bool = False
    most: int | None = None
    #: It may be given more than once.
    is_multiple: bool = False


TIMEOUT = Option(
    "timeout_seconds",
    ("--timeout",),
    "How long each worker may take to answer; all are asked at once.  [default: 1 if its table of requests can be shown"
    " instead, else 5]",
    "SECONDS",
    is_least_excluded=True,
    most=MAX_SECONDS,
)
WORKER = Option(
    "numbers", ("--worker", "-w"), "Only worker N; can be given more than once.", "N", least=1, is_multiple=True
)

#: In the order of the help.
OPTIONS = (
    WORKER,
    TIMEOUT,
    Option(
        "form",
        ("--format",),
        "For people, as text or as one page; for programs; or as uWSGI's tracebacker writes it.",
        choices=("text", "html", "json", "uwsgi"),
    ),
    Option("older_seconds", ("--older",), "Only requests that are at least so old.", "SECONDS"),
    Option("path_pattern", ("--path",), "Only requests whose whole path matches; * also matches slashes.", "GLOB"),
    Option(
        "by",
        ("--by",),
        "Put those together that stand at the same place, wait for the same, or have the same route; or none.",
        choices=GROUPINGS,
    ),
    Option(
        "order",
        ("--sort",),
        "The oldest first, most CPU first, by worker and core, or by route.",
        choices=ORDERS,
    ),
    Option("limit", ("--limit",), "Show so many places; 0: all.", "N"),
    Option(
        "times",
        ("--times",),
        "Look so often, and say of each request whether it is stuck or moves.",
        "N",
        least=1,
        most=MAX_TIMES,
    ),
    Option(
        "every_seconds",
        ("--every",),
        "With --times: from one look to the next.",
        "SECONDS",
        is_least_excluded=True,
        most=MAX_SECONDS,
    ),
    Option("full", ("--full",), "Show every frame and every request, nothing folded."),
    Option("all_threads", ("--all",), "Show idle threads and those that serve no requests too."),
    Option(
        "from_outside",
        ("--from-outside",),
        "Do not ask the workers: read their stacks from their memory, without anything running in them.",
    ),
    Option("no_memory", ("--no-memory",), "Do not read the memory of workers that do not answer."),
    Option(
        "no_signal",
        ("--no-signal",),
        "Do not ask stalled workers for their stacks by signal: show their table of requests.",
    ),
    Option(
        "colour",
        ("--color", "--colour"),
        "auto: on a terminal, unless NO_COLOR is set.",
        choices=("auto", "always", "never"),
    ),
)

_BY_NAME = {name: option for option in OPTIONS for name in option.names}


def plain_read(arguments: Sequence[str], environ: Mapping[str, str]) -> dict[str, Any] | None:
    """The arguments of ``show`` for a usual ``read``; None for every command line that is left to click."""
    if arguments[:1] != ["read"] or COMPLETION in environ:
        return None
    bases: list[str] = []
    values: dict[str, Any] = {}
    words = iter(arguments[1:])
    for word in words:
        if not word.startswith("-"):
            bases.append(word)
            continue
        name, has_value, given = word.partition("=")
        option = _BY_NAME.get(name)
        if option is None or (has_value and not name.startswith("--")):
            return None
        if option.metavar is None and not option.choices:
            if has_value:
                return None
            values[option.parameter] = True
            continue
        value = _value(option, given if has_value else next(words, "-"))
        if value is None:
            return None
        values[option.parameter] = (*values.get(option.parameter, ()), value) if option.is_multiple else value
    return {**values, "bases": tuple(bases)}


def _value(option: Option, word: str) -> object | None:
    """The value that a word means; None if it is wrong, or may be another option."""
    if option.choices:
        return word if word in option.choices else None
    if option.metavar not in ("N", "SECONDS"):
        return None if word.startswith("-") else word
    digits = word.replace(".", "", 1) if option.metavar == "SECONDS" else word
    if not (digits.isdecimal() and digits.isascii() and len(digits) <= _MAX_DIGITS):
        return None
    number = float(word) if option.metavar == "SECONDS" else int(word)
    if number < option.least or (option.is_least_excluded and number == option.least):
        return None
    return number if option.most is None or number <= option.most else None

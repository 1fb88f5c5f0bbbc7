"""What an option of a verb is, and the parser of usual command lines.

Loading click takes as long as everything else that a verb does. So of the verbs that people wait for, or that probes
run every few seconds, options that are spelt in full, with right values, are understood here. Whatever else there is,
click parses the whole command line, with the options that ``options`` makes of these, and says what is wrong with it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

#: The limit of a number of seconds.
MAX_SECONDS = 3600

#: No number that anybody means has more digits.
_MAX_DIGITS = 9

#: The names of values that are numbers with a fraction.
_FRACTIONS = ("SECONDS", "SHARE")


class Option(NamedTuple):
    """An option that takes a value: one of ``choices``, or what ``metavar`` says. Without either it is a flag."""

    #: Of the function that does the verb's work, where its default is.
    parameter: str
    names: tuple[str, ...]
    help: str
    #: ``N`` is a whole number, ``SECONDS`` and ``SHARE`` have a fraction, ``FILE`` is no folder; else it is any text.
    metavar: str | None = None
    choices: tuple[str, ...] = ()
    #: The smallest number, and whether that one itself is too small; the greatest, None: any.
    least: int = 0
    is_least_excluded: bool = False
    most: int | None = None
    #: It may be given more than once.
    is_multiple: bool = False


def parse(options: Sequence[Option], arguments: Sequence[str]) -> dict[str, Any] | None:
    """The values of a usual command line, by parameter, with ``bases``; None for one that is left to click."""
    by_name = {name: option for option in options for name in option.names}
    bases: list[str] = []
    values: dict[str, Any] = {}
    words = iter(arguments)
    for word in words:
        if not word.startswith("-"):
            bases.append(word)
            continue
        name, has_value, given = word.partition("=")
        option = by_name.get(name)
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
    if option.metavar not in ("N", *_FRACTIONS):
        is_wrong = word.startswith("-") or (option.metavar == "FILE" and os.path.isdir(word))
        return None if is_wrong else word
    digits = word.replace(".", "", 1) if option.metavar in _FRACTIONS else word
    if not (digits.isdecimal() and digits.isascii() and len(digits) <= _MAX_DIGITS):
        return None
    number = float(word) if option.metavar in _FRACTIONS else int(word)
    if number < option.least or (option.is_least_excluded and number == option.least):
        return None
    return number if option.most is None or number <= option.most else None

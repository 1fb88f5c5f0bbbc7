"""Samples become rows: medians with their spread, and a table of them. Knows nothing of what was measured."""

from __future__ import annotations

import math
import statistics
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence


#: Load average above which somebody else uses the machine.
QUIET_LOAD = 1.0


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    topic: str
    case: str
    subject: str
    #: ``µs``, ``ms``, ``requests/s``, ``MB``.
    unit: str
    #: None where the subject could not be measured; ``note`` says why.
    median: float | None
    #: The quartiles.
    low: float | None = None
    high: float | None = None
    samples: int = 0
    #: How many times the reference of the same case this is.
    ratio: float | None = None
    note: str = ""


def row(
    topic: str, case: str, subject: str, unit: str, values: Sequence[float], reference: float | None, note: str = ""
) -> Row:
    """Summarise the samples of one subject, in ``unit``; ``reference`` is the median to compare with."""
    median = statistics.median(values)
    low, _, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else (median,) * 3
    return Row(
        topic=topic,
        case=case,
        subject=subject,
        unit=unit,
        median=median,
        low=low,
        high=high,
        samples=len(values),
        # A difference whose spread is on both sides of nothing is no multiple of anything.
        ratio=median / reference if reference and low > 0 else None,
        note=note,
    )


def missing(topic: str, case: str, subject: str, unit: str, note: str) -> Row:
    """A subject that could not be measured."""
    return Row(topic, case, subject, unit, None, note=note)


def in_turns(
    subjects: Mapping[str, Callable[[], float]],
    rounds: int,
    budget_seconds: float = math.inf,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """So many samples of every subject, one of each in every round, each round beginning with another one.

    The first round is not counted: it warms caches up. Of a subject that takes long there are fewer: it takes part
    until ``budget_seconds`` went into it, and if the first round alone took as long as that, the first counts.
    """
    names = list(subjects)
    values: dict[str, list[float]] = {name: [] for name in names}
    spent = dict.fromkeys(names, 0.0)
    for number in range(rounds + 1):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            if spent[name] >= budget_seconds and values[name]:
                continue
            started = clock()
            value = subjects[name]()
            spent[name] += clock() - started
            if number or spent[name] >= budget_seconds:
                values[name].append(value)
    return values


def usable(subjects: Mapping[str, Callable[[], float]]) -> tuple[dict[str, Callable[[], float]], dict[str, str]]:
    """The subjects that work here, each tried once, and why the others do not."""
    work, problems = {}, {}
    for name, sample in subjects.items():
        try:
            sample()
            work[name] = sample
        except subprocess.CalledProcessError as error:
            # Its text has the whole command in it.
            problems[name] = f"does not work here: ends with {error.returncode}"
        except Exception as error:
            problems[name] = f"does not work here: {type(error).__name__}: {error}"
    return work, problems


def table(rows: Sequence[Row]) -> Iterator[str]:
    """The rows as text, a heading for each topic and each case."""
    topic = case = None
    width = max((len(row.subject) for row in rows), default=0)
    for each in rows:
        if each.topic != topic:
            yield ""
            yield each.topic
            yield "=" * len(each.topic)
            topic, case = each.topic, None
        if each.case != case:
            yield f"{each.case}:"
            case = each.case
        yield _line(each, width).rstrip()


def _line(each: Row, width: int) -> str:
    if each.median is None or each.low is None or each.high is None:
        return f"  {each.subject:<{width}}  {'-':>9}  {each.note}"
    ratio = "" if each.ratio is None else f"{each.ratio:.2f} x"
    spread = f"({number(each.low)} to {number(each.high)}, n={each.samples})"
    return f"  {each.subject:<{width}}  {number(each.median):>9} {each.unit}  {spread:<32} {ratio:>10}  {each.note}"


def number(value: float) -> str:
    """Three digits that count."""
    return f"{value:.3f}" if abs(value) < 1 else f"{value:.2f}" if abs(value) < 100 else f"{value:,.0f}"

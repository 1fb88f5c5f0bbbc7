"""Shows a stack as its reader wants it: the application's own calls with their source, those of others folded.

``… 12 calls of gunicorn and flask`` stands for a run of other calls. Below the application's own code the line also
names the innermost call of its run, which is what that code called: ``… 5 calls of sqlalchemy, then threading.py:331
Condition.wait``. A log has ``...`` in place of ``…``. ``frames`` shows a stack in full.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from wsgi_tracebacker.model.code_ownership import PYTHON, THIS_PACKAGE
from wsgi_tracebacker.model.snapshot import Frame  # noqa: TC001  (a value needs it)
from wsgi_tracebacker.text.frames import MAX_SHOWN_REPEATS, repeated, source_lines
from wsgi_tracebacker.text.palette import PLAIN, Palette
from wsgi_tracebacker.text.units import plural
from wsgi_tracebacker.wire.escape import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from wsgi_tracebacker.model.code_ownership import CodeOwnership

#: What a folded line begins with in a log, whose encoding may be ASCII.
LOG_ELLIPSIS = "..."

#: So many libraries are named on a folded line.
_MAX_NAMES = 3

#: So many own calls are shown at each end of a stack. People write stacks of some ten calls; a runaway recursion
#: through several functions has a thousand.
_OUTERMOST_SHOWN = 10
_INNERMOST_SHOWN = 20


class Run(NamedTuple):
    """Calls that follow each other in a stack and are shown together."""

    calls: Sequence[Frame]
    #: What is written after an ellipsis for folded calls; None: these are the application's own, all of them equal.
    line: str | None


def folded(
    frames: Sequence[Frame],
    ownership: CodeOwnership,
    *,
    cwd: str | None = None,
    palette: Palette = PLAIN,
    ellipsis: str = "…",
) -> Iterator[str]:
    """The lines of a stack, outermost call first; paths are shown below the worker's folder ``cwd``."""
    for run in runs(frames, ownership):
        if run.line is not None:
            yield palette.paint(palette.quiet, f"{ellipsis} {run.line}")
            continue
        for frame in run.calls[:MAX_SHOWN_REPEATS]:
            yield from _own(frame, ownership, cwd, palette)
        yield from repeated(len(run.calls))


def runs(frames: Sequence[Frame], ownership: CodeOwnership) -> Iterator[Run]:
    """The parts of a stack, outermost call first: the application's own calls, and what is folded between them."""
    shown = _shown(frames, ownership)
    # Equal calls of a recursion are one part, and so is a run of calls that are folded.
    parts = [
        (own, [frames[index] for index in indexes])
        for own, indexes in groupby(range(len(frames)), lambda index: frames[index] if index in shown else None)
    ]
    left_out = _left_out(parts)
    for number, (own, calls) in enumerate(parts):
        if number in left_out:
            if number == left_out.start:
                middle = [frame for other in left_out for frame in parts[other][1]]
                yield Run(middle, f"{plural(len(middle), 'more call')}, in the middle of the stack")
        elif own is None:
            if shown and all(ownership.library(frame.filename) == THIS_PACKAGE for frame in calls):
                # The middleware alone, between two calls of the application's: nothing that its reader wrote or chose.
                continue
            is_below_own = number > 0 or not shown
            yield Run(calls, _line(calls, ownership, names_innermost=is_below_own))
        else:
            yield Run(calls, None)


def place(frame: Frame, ownership: CodeOwnership, cwd: str | None = None) -> str:
    """``shop/orders.py:71 load_order``."""
    lineno = "?" if frame.lineno is None else frame.lineno
    return printable(f"{ownership.short_path(frame.filename, cwd)}:{lineno} {frame.function}")


def _shown(frames: Sequence[Frame], ownership: CodeOwnership) -> set[int]:
    """Which calls are shown: the application's own, or the one that stands for them."""
    own = {index for index, frame in enumerate(frames) if ownership.is_own(frame.filename)}
    if not own:
        found = ownership.innermost(frame.filename for frame in reversed(frames))
        if found is not None:
            own = {len(frames) - 1 - found}
    return own


def _left_out(parts: Sequence[tuple[Frame | None, Sequence[Frame]]]) -> range:
    """The parts that are left out of the middle of a very long stack."""
    own = [number for number, (frame, _) in enumerate(parts) if frame is not None]
    # The line that says so takes a line too.
    if len(own) <= _OUTERMOST_SHOWN + _INNERMOST_SHOWN + 1:
        return range(0)
    return range(own[_OUTERMOST_SHOWN], own[-_INNERMOST_SHOWN])


def _own(frame: Frame, ownership: CodeOwnership, cwd: str | None, palette: Palette) -> Iterator[str]:
    changed = palette.paint(palette.slow, "  (source changed since start)") if frame.source_changed else ""
    yield f"{palette.paint(palette.own, place(frame, ownership, cwd))}{changed}"
    yield from source_lines(frame, palette)


def _line(calls: Sequence[Frame], ownership: CodeOwnership, *, names_innermost: bool) -> str:
    line = f"{plural(len(calls), 'call')} of {_names(ownership.library(frame.filename) or '' for frame in calls)}"
    if not names_innermost:
        return line
    return f"{line}{', then' if len(calls) > 1 else ':'} {place(calls[-1], ownership)}"


def _names(libraries: Iterable[str]) -> str:
    """Libraries in the order of their calls; Python and the middleware only where there are no others."""
    found = list(dict.fromkeys(libraries))
    names = [name for name in found if name not in (PYTHON, THIS_PACKAGE)] or found
    shown = [printable(name) for name in names[:_MAX_NAMES]]
    more = len(names) - len(shown)
    if more:
        shown.append(f"{more} more")
    return " and ".join(filter(None, (", ".join(shown[:-1]), shown[-1])))

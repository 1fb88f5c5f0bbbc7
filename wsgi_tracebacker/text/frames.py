"""Shows frames as Python's own traceback does, and folds the equal calls of a recursion."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsgi_tracebacker.text.columns import width
from wsgi_tracebacker.text.palette import PLAIN, Palette
from wsgi_tracebacker.text.units import plural
from wsgi_tracebacker.wire.escape import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from wsgi_tracebacker.model.code_ownership import CodeOwnership
    from wsgi_tracebacker.model.snapshot import Frame

#: As many equal calls of a recursion are shown as Python shows of them.
MAX_SHOWN_REPEATS = 3

#: A longer source line is cut: generated and minified code has lines that would fill the screen.
MAX_SOURCE_CHARACTERS = 400

_TAB = "    "


def traceback(
    frames: Iterable[Frame], palette: Palette = PLAIN, ownership: CodeOwnership | None = None
) -> Iterator[str]:
    """Frames as Python's own traceback shows them: place, source line, and a caret line where columns are known.

    With ``ownership`` the calls that are not the application's own are dim.
    """
    previous: tuple[object, ...] | None = None
    repeats = 0
    for frame in frames:
        place = (frame.filename, frame.lineno, frame.function)
        if place == previous:
            repeats += 1
            if repeats > MAX_SHOWN_REPEATS:
                continue
        else:
            yield from repeated(repeats)
            previous, repeats = place, 1
        if ownership is None or ownership.is_own(frame.filename):
            yield from _frame(frame, palette)
        else:
            yield from (palette.paint(palette.quiet, line) for line in _frame(frame, PLAIN))
    yield from repeated(repeats)


def repeated(repeats: int) -> Iterator[str]:
    """The line after so many equal calls, if they are too many."""
    if repeats > MAX_SHOWN_REPEATS:
        yield f"[Previous line repeated {plural(repeats - MAX_SHOWN_REPEATS, 'more time')}]"


def _frame(frame: Frame, palette: Palette) -> Iterator[str]:
    lineno = "?" if frame.lineno is None else str(frame.lineno)
    function = palette.paint(palette.function, printable(frame.function))
    changed = palette.paint(palette.slow, "  (source changed since start)") if frame.source_changed else ""
    yield f'File "{printable(frame.filename)}", line {lineno}, in {function}{changed}'
    yield from source_lines(frame, palette)


def source_lines(frame: Frame, palette: Palette = PLAIN) -> Iterator[str]:
    """The source line of a frame, indented, and the carets below it."""
    if frame.source is None or not frame.source.strip():
        return
    before, marked, after = source_parts(frame)
    yield "  " + _cut(before + marked + after)
    columns = width(marked)
    # As Python does: carets below the whole line would say nothing.
    if columns and (before or after) and len(before) + len(marked) <= MAX_SOURCE_CHARACTERS:
        yield "  " + " " * width(before) + palette.paint(palette.mark, "^" * columns)


def source_parts(frame: Frame) -> tuple[str, str, str]:
    """The stripped source line before, within and after the expression that runs, fit to be shown."""
    source = (frame.source or "").rstrip()
    start, end = frame.column, frame.end_column
    if frame.lineno is not None and frame.end_lineno is not None and frame.end_lineno > frame.lineno:
        # The expression goes on in the next line, so the rest of this line belongs to it.
        end = None if start is None else len(source) * 4
    if start is None or end is None or not 0 <= start < end:
        return _shown(source.lstrip()), "", ""
    # Columns count UTF-8 bytes. What cannot be decoded becomes replacement characters.
    encoded = source.encode("utf-8", "surrogatepass")
    before, marked, after = (
        part.decode("utf-8", "replace") for part in (encoded[:start], encoded[start:end], encoded[end:])
    )
    # The indentation goes, whatever part of the line it is in.
    if not (before := before.lstrip()) and not (marked := marked.lstrip()):
        after = after.lstrip()
    return _shown(before), _shown(marked), _shown(after)


def _shown(source: str) -> str:
    return printable(source.replace("\t", _TAB))


def _cut(text: str) -> str:
    return text if len(text) <= MAX_SOURCE_CHARACTERS else f"{text[:MAX_SOURCE_CHARACTERS]} ..."

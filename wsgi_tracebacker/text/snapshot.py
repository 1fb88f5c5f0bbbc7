"""A snapshot as lines for people: who the worker is, what each of its requests is doing, and how far it has got.

Knows how it should read, on a terminal or in a mail. Refuses to know where it goes: it yields lines without line
ends, with colour if it is told so, and takes every time from the snapshot. Whatever stands in a name, a path or a
source line, no control character of it leaves this module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from wsgi_tracebacker.model.snapshot import UNKNOWN_PHASE
from wsgi_tracebacker.wire.escape import printable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from wsgi_tracebacker.model.snapshot import Frame, HubState, Request, Snapshot, Stack

#: As many equal calls of a recursion are shown as Python shows of them.
_SHOWN_REPEATS = 3

#: A source line is cut here: generated and minified code has lines that would fill the screen.
_MAX_SOURCE_CHARACTERS = 400

#: A request is noticeable from here on (yellow) and somebody is waiting for it from there on (red).
_SLOW_SECONDS = 1.0
_STUCK_SECONDS = 10.0

#: proc_pid_stat(5), in words; Z and X are not seen by who is asked.
_STATES = {
    "R": "running",
    "S": "sleeping",
    "D": "waiting for a disk",
    "T": "stopped",
    "t": "traced",
    "I": "idle",
}

#: The sources of a snapshot that its worker had no part in.
_FROM_OUTSIDE = ("table", "faulthandler")

_TAB = "    "


class Palette(NamedTuple):
    """What stands before and after text of a kind; all empty without colour."""

    heading: str = ""
    request: str = ""
    quiet: str = ""
    function: str = ""
    mark: str = ""
    slow: str = ""
    stuck: str = ""
    end: str = ""

    def paint(self, how: str, text: str) -> str:
        return f"{how}{text}{self.end}" if how else text


PLAIN = Palette()
#: Only the eight colours that every terminal has and every theme makes readable.
COLOURED = Palette(
    heading="\x1b[1m",
    request="\x1b[1;36m",
    quiet="\x1b[2m",
    function="\x1b[1m",
    mark="\x1b[31m",
    slow="\x1b[33m",
    stuck="\x1b[1;31m",
    end="\x1b[0m",
)


def lines(
    snapshot: Snapshot,
    *,
    all_threads: bool = False,
    older_seconds: float | None = None,
    palette: Palette = PLAIN,
) -> Iterator[str]:
    """One worker: its heading, the requests it serves, the longest first, and a count of its other threads.

    ``all_threads`` shows those threads as well; ``older_seconds`` leaves out requests that are younger.
    """
    sorted_out = _sort_out(snapshot, older_seconds)
    yield heading(snapshot, palette)
    for stack in snapshot.stacks:
        if stack.hub is not None:
            yield f"  {_hub(stack.hub, snapshot, palette)}"
    for stack in sorted_out.serving:
        yield ""
        yield from _serving_lines(stack, palette, snapshot.source)
    if all_threads:
        for stack in (*sorted_out.idle, *sorted_out.others):
            yield ""
            yield from _resting_lines(stack, palette, snapshot.source)
    counted = _counted(sorted_out, all_threads)
    if counted:
        yield ""
        yield "  " + palette.paint(palette.quiet, counted)


def heading(snapshot: Snapshot, palette: Palette = PLAIN) -> str:
    """The line that says who a worker is."""
    worker = snapshot.worker
    name = "worker" if worker.number is None else f"worker {worker.number}"
    facts = [f"pid {worker.pid}" if worker.pid is not None else None, worker.server, worker.application]
    if worker.started_at is not None:
        facts.append(f"up {duration(snapshot.taken_at - worker.started_at)}")
    facts.append(f"{in_flight(snapshot)} in flight")
    line = palette.paint(palette.heading, name) + "".join(f"  {printable(fact)}" for fact in facts if fact)
    if snapshot.state == "alive":
        return line
    return f"{line}  {palette.paint(palette.stuck, f'{printable(snapshot.state)}, no answer')}"


def _hub(hub: HubState, snapshot: Snapshot, palette: Palette) -> str:
    whose = f"{printable(hub.library)}'s hub"
    if hub.state != "blocked":
        return palette.paint(palette.quiet, f"{whose} {'is ' if hub.state == 'idle' else ''}{printable(hub.state)}")
    since = "" if hub.blocked_seconds is None else f" for {duration(hub.blocked_seconds)} at least"
    running = next((stack for stack in snapshot.stacks if stack.greenlet == "running"), None)
    if running is None:
        by = ""
    elif running.request is None:
        by = " by a greenlet that serves no request; --all shows it"
    else:
        by = f" by {printable(running.name)}, {printable(f'{running.request.method} {running.request.path}')}"
    return f"{palette.paint(palette.stuck, f'{whose} is blocked{since}')}{by}"


def in_flight(snapshot: Snapshot) -> int:
    """How many requests a worker serves; for uWSGI, whose counters are not on its socket, as its stacks have it."""
    if snapshot.worker.requests_in_flight is not None:
        return snapshot.worker.requests_in_flight
    return sum(1 for stack in snapshot.stacks if _serves(stack, snapshot))


def oldest_seconds(snapshot: Snapshot) -> float | None:
    """The age of the oldest request, None if there is none or nobody knows."""
    if snapshot.worker.oldest_request_seconds is not None:
        return snapshot.worker.oldest_request_seconds
    return max((stack.request.age_seconds for stack in snapshot.stacks if stack.request is not None), default=None)


def duration(seconds: float) -> str:
    """A time that people read at a glance: ``0.42 s``, ``12.3 s``, ``3 min 20 s``, ``2 h 05 min``, ``3 d 4 h``."""
    # A clock that was set back must not make it negative.
    seconds = max(0.0, seconds)
    if seconds < 9.995:
        return f"{seconds:.2f} s"
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02d} min"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h"


# ---------------------------------------------------------------------------------------------------------- threads


class _SortedOut(NamedTuple):
    serving: Sequence[Stack]
    younger: int
    idle: Sequence[Stack]
    others: Sequence[Stack]


def _serves(stack: Stack, snapshot: Snapshot) -> bool:
    # uWSGI's socket does not know requests, but a thread of a core has Python frames only while it serves one.
    return stack.request is not None or (snapshot.source == "uwsgi" and stack.core is not None)


def _sort_out(snapshot: Snapshot, older_seconds: float | None) -> _SortedOut:
    serving, idle, others = [], [], []
    younger = 0
    for stack in snapshot.stacks:
        if _serves(stack, snapshot):
            if older_seconds is not None and stack.request is not None and stack.request.age_seconds < older_seconds:
                younger += 1
            else:
                serving.append(stack)
        elif stack.core is not None:
            idle.append(stack)
        else:
            others.append(stack)
    serving.sort(key=lambda stack: (-stack.request.age_seconds if stack.request else 0.0, stack.core or 0))
    return _SortedOut(serving, younger, idle, others)


def _serving_lines(stack: Stack, palette: Palette, source: str) -> Iterator[str]:
    request = stack.request
    name = palette.paint(palette.heading, printable(stack.name))
    if request is None:
        yield f"  {name}  {palette.paint(palette.quiet, 'a request, uWSGI does not say which')}"
    else:
        facts = f"{_state(stack)}{_holder(stack, palette)}{_origin(request, palette)}"
        yield f"  {name}  {_request(request, palette)}{facts}"
        if source in _FROM_OUTSIDE:
            yield f"    {palette.paint(palette.quiet, _ids(stack))}"
        for nested in _nested(request):
            yield f"    inside it {_request(nested, palette)}"
    yield from _frames(stack, palette, source)


def _resting_lines(stack: Stack, palette: Palette, source: str) -> Iterator[str]:
    if stack.core is not None:
        what = "idle"
    else:
        what = f"{'daemon ' if stack.daemon else ''}{printable(stack.kind)}, serves no requests"
        if stack.kind == "unknown":
            what = "serves no requests"
        if stack.hub is not None:
            what = f"{printable(stack.hub.library)}'s hub, which all its greenlets wait in"
    last = stack.last_request
    if last is not None:
        request = printable(f"{last.method} {last.path}")
        what += f", last request {request} ended {duration(last.ended_seconds_ago)} ago"
    yield f"  {printable(stack.name)}  {palette.paint(palette.quiet, what + _state(stack))}"
    yield from _frames(stack, palette, source)


def _request(request: Request, palette: Palette) -> str:
    target = request.path if request.query is None else f"{request.path}?{request.query}"
    age = duration(request.age_seconds)
    if request.age_seconds >= _STUCK_SECONDS:
        age = palette.paint(palette.stuck, age)
    elif request.age_seconds >= _SLOW_SECONDS:
        age = palette.paint(palette.slow, age)
    what = palette.paint(palette.request, printable(f"{request.method} {target}"))
    # A table does not hold it.
    phase = "" if request.phase == UNKNOWN_PHASE else f"  in {printable(request.phase)}"
    return f"{what}  {age}{phase}"


def _state(stack: Stack) -> str:
    if stack.greenlet is not None:
        return f", {printable(stack.greenlet)}"
    if stack.state is None:
        return ""
    words = _STATES.get(stack.state) or f"in state {printable(stack.state)}"
    # The kernel writes 0 for a thread that waits for nothing.
    if stack.wait_channel and stack.wait_channel != "0" and stack.state != "R":
        words += f" in {printable(stack.wait_channel)}"
    return f", {words}"


def _holder(stack: Stack, palette: Palette) -> str:
    return f", {palette.paint(palette.stuck, 'holds the GIL')}" if stack.holds_gil else ""


def _ids(stack: Stack) -> str:
    """What other tools know the thread by: all there is to go on with where its stack is not known."""
    ident = "?" if stack.ident is None else f"{stack.ident:#x}"
    return f"thread {ident}, native id {'?' if stack.native_id is None else stack.native_id}, core {stack.core}"


def _origin(request: Request, palette: Palette) -> str:
    origin = ""
    if request.remote_address:
        origin += f"  from {printable(request.remote_address)}"
    if request.request_id:
        origin += f"  id {printable(request.request_id)}"
    return palette.paint(palette.quiet, origin) if origin else ""


def _nested(request: Request) -> Iterator[Request]:
    # Depth first, without recursion: how deep it goes is the sender's choice.
    waiting = list(reversed(request.nested))
    while waiting:
        nested = waiting.pop()
        yield nested
        waiting.extend(reversed(nested.nested))


def _counted(sorted_out: _SortedOut, all_threads: bool) -> str:
    counts = []
    if sorted_out.younger:
        counts.append(f"{_plural(sorted_out.younger, 'younger request')} not shown")
    if not all_threads:
        if sorted_out.idle:
            ended = min((s.last_request.ended_seconds_ago for s in sorted_out.idle if s.last_request), default=None)
            last = "" if ended is None else f" (last request ended {duration(ended)} ago)"
            counts.append(f"{_plural(len(sorted_out.idle), 'idle thread')}{last}")
        if sorted_out.others:
            counts.append(f"{_plural(len(sorted_out.others), 'other thread')} that {_verb(len(sorted_out.others))}")
    line = ", ".join(counts)
    return f"{line}; --all shows them" if not all_threads and (sorted_out.idle or sorted_out.others) else line


def _plural(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _verb(count: int) -> str:
    return "serves no requests" if count == 1 else "serve no requests"


# ----------------------------------------------------------------------------------------------------------- frames


def _frames(stack: Stack, palette: Palette, source: str) -> Iterator[str]:
    if source == "table":
        return
    if source == "faulthandler":
        if stack.frames_omitted:
            yield "    [the outermost frames are left out: faulthandler shows the innermost 100]"
        if not stack.frames:
            yield "    (no stack of this thread in faulthandler's dump)"
    elif stack.frames_omitted:
        yield f"    [{_plural(stack.frames_omitted, 'frame')} between the outermost ones and the rest left out]"
    if not stack.frames and source != "faulthandler":
        yield "    (no Python code on this thread)"
    yield from (f"    {line}" for line in traceback(stack.frames, palette))


def traceback(frames: Iterable[Frame], palette: Palette = PLAIN) -> Iterator[str]:
    """Frames as Python's own traceback shows them: place, source line, and a caret line where columns are known."""
    previous: tuple[object, ...] | None = None
    repeats = 0
    for frame in frames:
        place = (frame.filename, frame.lineno, frame.function)
        if place == previous:
            repeats += 1
            if repeats > _SHOWN_REPEATS:
                continue
        else:
            yield from _repeated(repeats)
            previous, repeats = place, 1
        yield from _frame(frame, palette)
    yield from _repeated(repeats)


def _repeated(repeats: int) -> Iterator[str]:
    if repeats > _SHOWN_REPEATS:
        yield f"[Previous line repeated {_plural(repeats - _SHOWN_REPEATS, 'more time')}]"


def _frame(frame: Frame, palette: Palette) -> Iterator[str]:
    lineno = "?" if frame.lineno is None else str(frame.lineno)
    function = palette.paint(palette.function, printable(frame.function))
    changed = palette.paint(palette.slow, "  (source changed since start)") if frame.source_changed else ""
    yield f'File "{printable(frame.filename)}", line {lineno}, in {function}{changed}'
    if frame.source is None or not frame.source.strip():
        return
    before, marked, after = _split(frame)
    yield "  " + _cut(before + marked + after)
    width = _width(marked)
    if width and len(before) + len(marked) <= _MAX_SOURCE_CHARACTERS:
        yield "  " + " " * _width(before) + palette.paint(palette.mark, "^" * width)


def _split(frame: Frame) -> tuple[str, str, str]:
    """The stripped source line before, within and after the expression that runs, fit to be shown."""
    source = (frame.source or "").rstrip()
    start, end = frame.column, frame.end_column
    if frame.lineno is not None and frame.end_lineno is not None and frame.end_lineno > frame.lineno:
        # It goes on in the next line: then the rest of this one belongs to it.
        end = None if start is None else len(source) * 4
    if start is None or end is None or not 0 <= start < end:
        return _shown(source.lstrip()), "", ""
    # Columns count UTF-8 bytes; what cannot be UTF-8 comes back as replacement characters.
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
    return text if len(text) <= _MAX_SOURCE_CHARACTERS else f"{text[:_MAX_SOURCE_CHARACTERS]} ..."


def _width(text: str) -> int:
    """How many columns of a terminal the text takes: East Asian wide characters two, combining ones none."""
    if text.isascii():
        return len(text)
    # Here and not above: most programs are ASCII, and the tables are a megabyte.
    import unicodedata  # noqa: PLC0415

    return sum(
        2 if unicodedata.east_asian_width(character) in "WF" else 0 if unicodedata.category(character) in _ZERO else 1
        for character in text
    )


#: Marks that stand on the character before them, and format characters, such as the joiners within emoji.
_ZERO = ("Mn", "Me", "Cf")


# ------------------------------------------------------------------------------------------------------------ table


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], right_aligned: Collection[str]) -> Iterator[str]:
    """Rows under their columns' names, ``-`` for None; the columns of numbers are aligned to the right."""
    cells = [list(columns)] + [["-" if cell is None else printable(str(cell)) for cell in row] for row in rows]
    widths = [max(map(_width, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        padded = (
            " " * (width - _width(cell)) + cell if name in right_aligned else cell + " " * (width - _width(cell))
            for name, cell, width in zip(columns, row, widths, strict=True)
        )
        yield "  ".join(padded).rstrip()

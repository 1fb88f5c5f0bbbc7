r"""Writes stacks as the text of uWSGI's tracebacker, for the programs that read it, and reads it from uWSGI's sockets.

The grammar::

    dump  := header block*
    block := frame+ "\n"
    frame := "thread_id = " NAME " filename = " FILE " lineno = " N " function = " FUNC " line = " SOURCE "\n"

Two things differ from uWSGI, and ordinary text shows neither. The text is UTF-8, with backslash escapes for control
characters, bidirectional marks and lone surrogates (uWSGI escapes nothing, and stops for good at the first character
that is not ASCII). And ``=`` after a space in a name, a path or a function is written ``\x3d``, so that no thread can
give itself a false file name.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from wsgi_tracebacker.errors import FormatError
from wsgi_tracebacker.model.snapshot import Frame, Stack
from wsgi_tracebacker.wire.escape import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

#: How a dump of ours begins.
HEADER = b"*** WSGI Python tracebacker output ***\n\n"

#: How a dump of uWSGI's begins.
UWSGI_HEADER = b"*** uWSGI Python tracebacker output ***\n\n"

#: uWSGI escapes nothing, so a line break in a thread's name splits its record. parse() joins a record from at most this
#: many characters: far more than a name and a path can have, and a bound on the work for a hostile dump.
_MAX_SPLIT_RECORD_CHARACTERS = 16 * 1024
#: And from at most this many lines, because for each line the search starts at the beginning of the record (measured
#: without this bound: 4 s for a megabyte of blank lines, and a reply may have 32).
_MAX_SPLIT_RECORD_LINES = 32

#: A dump has more bytes than this for each of its lines: a record has 56 and its values, and an empty line may follow.
_BYTES_A_LINE = 16
#: A short dump may have this many lines, for names with line breaks.
_LINES_ALWAYS = 1000

#: The same escapes as ``backslashreplace`` makes of bytes that are not UTF-8, in a third of its time.
_ESCAPES = {0xDC00 + byte: f"\\x{byte:02x}" for byte in range(0x80, 0x100)}

_THREAD_PREFIX = "thread_id = "
_LINENO_AND_FUNCTION = re.compile(r" lineno = (-?[0-9]{1,10}) function = ")
_SERVING_NAME = re.compile(r"u?WSGIWorker([0-9]{1,9})Core([0-9]{1,9})")


def _field(text: str) -> str:
    """A field that another one follows: the start of the next field is escaped in it too."""
    text = printable(text)
    return text.replace(" =", r" \x3d") if " =" in text else text


def line_start(name: str) -> bytes:
    """How each line of a thread's block begins."""
    return (_THREAD_PREFIX + _field(name)).encode("utf-8")


def frame_text(frame: Frame) -> str:
    """One frame's line without its thread, line end included: it is the same for every thread that stands there.

    A frame without a line number has line 0; one without source ends in ``line = `` and nothing, as uWSGI has it.
    """
    # The last component of the qualified name is what uWSGI prints, co_name.
    function = frame.function.rpartition(".")[2]
    source = printable(frame.source.strip()) if frame.source is not None else ""
    return (
        f" filename = {_field(frame.filename)} lineno = {frame.lineno or 0}"
        f" function = {_field(function)} line = {source}\n"
    )


def block(start: bytes, frame_texts: Sequence[bytes]) -> bytes:
    """One thread's block: how its lines begin, and how its frames' go on, encoded by the caller (who keeps both)."""
    return start + start.join(frame_texts) + b"\n"


def encode(stacks: Iterable[Stack]) -> bytes:
    """A whole dump. A thread without a Python frame gets no block; if none has any, the header stands alone."""
    return HEADER + b"".join(
        block(line_start(stack.name), [frame_text(frame).encode("utf-8") for frame in stack.frames])
        for stack in stacks
        if stack.frames
    )


def parse(data: bytes) -> tuple[Stack, ...]:
    """The stacks of a dump of ours or uWSGI's.

    Lines that are not records are ignored, and a record that was cut off within its source line is kept. Escapes are
    not decoded. Raises FormatError if there is no header, or more lines than a dump can have.
    """
    for header in (UWSGI_HEADER, HEADER):
        if data.startswith(header.rstrip()):
            break
    else:
        raise FormatError("this is no tracebacker output: its header is missing")
    if data.count(b"\n") > _LINES_ALWAYS + len(data) // _BYTES_A_LINE:
        # Measured without this bound, for 32 MiB: 0.9 GB for lines of two letters, 10 s for empty ones.
        raise FormatError("the dump has more lines than one of its length can have")
    stacks: list[Stack] = []
    name: str | None = None
    frames: list[Frame] = []
    pending = ""
    pending_lines = 0

    def end_block() -> None:
        if name is not None and frames:
            stacks.append(Stack(name=name, core=_serving(name)[1], kind="unknown", frames=tuple(frames)))
        frames.clear()

    for line in _text(data[len(header) - 1 :]).split("\n"):
        if line.startswith(_THREAD_PREFIX):
            pending, pending_lines = "", 0
        record = f"{pending}\n{line}" if pending else line
        parsed = _parse_record(record)
        if parsed is not None:
            pending = ""
            if parsed[0] != name:
                end_block()
                name = parsed[0]
            frames.append(parsed[1])
        elif (
            record.startswith(_THREAD_PREFIX)
            and len(record) <= _MAX_SPLIT_RECORD_CHARACTERS
            and pending_lines < _MAX_SPLIT_RECORD_LINES
        ):
            pending = record
            pending_lines += 1
        else:
            pending = ""
            end_block()
            name = None
    end_block()
    return tuple(stacks)


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("utf-8", "surrogateescape").translate(_ESCAPES)


def worker_number(stacks: Iterable[Stack]) -> int | None:
    """The number of the worker in the threads' names; None if no thread serves requests."""
    return next((number for number, _ in (_serving(stack.name) for stack in stacks) if number is not None), None)


def _serving(name: str) -> tuple[int | None, int | None]:
    """The worker's number and the core in a thread's name; (None, None) for a thread that does not serve requests."""
    match = _SERVING_NAME.fullmatch(name)
    return (int(match[1]), int(match[2])) if match else (None, None)


def _parse_record(record: str) -> tuple[str, Frame] | None:
    # Searches from left to right only: a single expression with three lazy groups takes cubic time on a hostile dump.
    if not record.startswith(_THREAD_PREFIX):
        return None
    name, separator, rest = record[len(_THREAD_PREFIX) :].partition(" filename = ")
    match = _LINENO_AND_FUNCTION.search(rest) if separator else None
    if match is None:
        return None
    function, _, source = rest[match.end() :].partition(" line = ")
    lineno = int(match[1])
    return name, Frame(
        filename=rest[: match.start()],
        lineno=lineno if lineno > 0 else None,
        function=function,
        source=source or None,
    )

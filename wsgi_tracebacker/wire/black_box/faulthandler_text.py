r"""Reads the stacks of all threads from a dump of ``faulthandler``.

CPython 3.10 to 3.15 write this text into a file when a signal comes that was registered with ``faulthandler``::

    dump   := (thread blank)* ["..."]
    thread := ("Thread 0x…" | "Current thread 0x…") [" [" NAME "]"] " (most recent call first):" line*
    line   := '  File "' FILE '", line ' N " in " FUNC | "  Garbage-collecting" | "  <no Python frame>" | "  ..."

"Current" is ignored: it is the thread that received the signal, not the one that held the GIL. A dump has the newest
100 threads, so the main thread may be missing, and the innermost 100 frames of each. Texts are cut after 500
characters and written in ASCII, with ``\xe9`` for other characters. These escapes are decoded here; because a
backslash in the text is not escaped, a file whose name is ``\xe9`` is misread.

PyPy writes "most recent call first, approximate line numbers" (each is the first line of its function), idents in
capitals, and texts in UTF-8.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from wsgi_tracebacker.errors import FormatError
from wsgi_tracebacker.model.snapshot import Frame, Stack

#: What faulthandler shows at most (``MAX_NTHREADS`` and ``MAX_FRAME_DEPTH`` in CPython's traceback.c).
MAX_THREADS = 100
MAX_FRAMES = 100

#: Readers read no more of a dump: 100 threads with 100 frames of ordinary names are 1 MB.
MAX_BYTES = 16 * 1024 * 1024

#: Below the innermost frames of a thread, in place of the others.
FRAMES_OMITTED = "  ..."

_THREAD = re.compile(
    r"(?:Current thread|Thread) 0x([0-9a-fA-F]{1,16})(?: \[(.{0,200})\])? "
    r"\(most recent call first(?:, approximate line numbers)?\):",
    re.ASCII,
)
#: What faulthandler writes where it shows one thread only.
_ONE_STACK = ("Stack (most recent call first):", "Stack (most recent call first, approximate line numbers):")
_FRAME = re.compile(r'  File (?:"(.*)"|\?\?\?), line ([0-9]{1,10}|\?\?\?) in (.*)', re.ASCII)
_ESCAPE = re.compile(r"\\(?:x([0-9a-f]{2})|u([0-9a-f]{4})|U([0-9a-f]{8}))", re.ASCII)
_HIGHEST_CHARACTER = 0x10FFFF


class Dump(NamedTuple):
    """The threads of a dump, in its order: the newest first."""

    stacks: tuple[Stack, ...]
    #: There were more threads than the dump shows.
    is_cut: bool


def parse(content: bytes) -> Dump:
    """The stacks of a dump, each with its ident, its frames outermost first.

    Other lines are ignored, and of a dump that was cut off the whole lines are read. Raises FormatError if there is no
    thread in it.
    """
    threads: list[_Thread] = []
    is_cut = False
    # Not splitlines(), which splits at other characters too.
    for line in content[:MAX_BYTES].decode("utf-8", "backslashreplace").split("\n"):
        header = _THREAD.fullmatch(line)
        if header is not None:
            threads.append(_Thread(int(header[1], 16), _unescaped(header[2]) if header[2] else None))
        elif line in _ONE_STACK:
            threads.append(_Thread(None, None))
        elif line == "...":
            is_cut = True
        elif threads and not threads[-1].is_over:
            threads[-1].add(line)
    if not threads:
        raise FormatError("this is no dump of faulthandler's: there is no thread in it")
    return Dump(tuple(thread.stack() for thread in threads), is_cut)


def parse_frame(line: str) -> Frame | None:
    """The frame that a line of a dump shows; None if it is another line."""
    found = _FRAME.fullmatch(line)
    if found is None:
        return None
    filename, lineno, function = found.groups()
    known = lineno.isdecimal() and int(lineno) > 0
    return Frame(
        filename="???" if filename is None else _unescaped(filename),
        lineno=int(lineno) if known else None,
        function=_unescaped(function),
    )


class _Thread:
    """One thread, as far as it was read."""

    def __init__(self, ident: int | None, name: str | None) -> None:
        self.is_over = False
        self._ident = ident
        self._name = name
        self._frames: list[Frame] = []
        self._omitted = 0

    def add(self, line: str) -> None:
        if not line.startswith("  "):
            # A blank line ends a thread, and so does the head of another section: the C stack of 3.14, say.
            self.is_over = True
            return
        if line == FRAMES_OMITTED:
            self._omitted = 1
            return
        frame = parse_frame(line)
        if frame is not None:
            self._frames.append(frame)

    def stack(self) -> Stack:
        name = self._name
        if name is None:
            name = "Thread" if self._ident is None else f"Thread-{self._ident:#x}"
        return Stack(
            name=name,
            ident=self._ident,
            kind="unknown",
            frames=tuple(reversed(self._frames)),
            frames_omitted=self._omitted,
        )


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(_character, text) if "\\" in text else text


def _character(match: re.Match[str]) -> str:
    code = int(match[1] or match[2] or match[3], 16)
    return chr(code) if code <= _HIGHEST_CHARACTER else match.group()

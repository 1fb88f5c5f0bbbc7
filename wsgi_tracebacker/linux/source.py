"""Source files as lines, decoded and split as Python's tokenizer does (PEP 263).

Bounds how much of a file is read, and how much of a line is shown.
"""

from __future__ import annotations

import codecs
import os
import re
import stat

from wsgi_tracebacker.linux import files

#: Larger source files are not read: generated code, and 8 MB of it.
MAX_SOURCE_BYTES = 8 * 1024 * 1024
#: A longer source line is cut: minified code has lines of a megabyte.
_MAX_LINE_CHARACTERS = 500

#: A process's start is known in ticks of 10 ms, and a file's time comes from a clock as coarse.
_CLOCK_SLACK_SECONDS = 0.05

#: Decoding them takes quadratic time (measured: 400 KB in 4.6 s), and no program is written in them.
_SLOW_ENCODINGS = ("punycode", "idna")

#: Files with these names are Python code.
_PYTHON_SUFFIXES = (".py", ".pyw")

#: PEP 263.
_ENCODING_COOKIE = re.compile(rb"^[ \t\f]*#.*?coding[:=][ \t]*([-\w.]+)", re.ASCII)


class SourceFile:
    """The lines of one source file."""

    __slots__ = ("_lines", "modified_at")

    def __init__(self, lines: list[str], modified_at: float) -> None:
        """``modified_at``: Unix seconds."""
        self._lines = lines
        self.modified_at = modified_at

    def line(self, lineno: int) -> str | None:
        """The line without its end, or None if the file has no such line."""
        if 1 <= lineno <= len(self._lines):
            return self._lines[lineno - 1].rstrip()[:_MAX_LINE_CHARACTERS]
        return None

    def line_of(self, filename: str, function: str, lineno: int) -> str | None:
        """A line of a function; None if the file has no such line, or is not the Python code that runs.

        Templates are compiled to Python code that has the template's file name, but functions and lines of its own. So
        a file that is not named like Python must define the function at that line or above it.
        """
        name = function.rpartition(".")[2]
        if not filename.endswith(_PYTHON_SUFFIXES) and name.isidentifier():
            definition = re.compile(rf"\b(?:def|class)\s+{name}\b")
            if not any(definition.search(line) for line in self._lines[:lineno]):
                return None
        return self.line(lineno)

    def block(self, first: int, last: int, most_lines: int) -> str:
        """The lines from ``first``, a function's first, to the end of its block, which is at ``last`` or later."""
        lines = self._lines[first - 1 : last]
        indent = _indent(lines[0]) if lines else 0
        for line in self._lines[last : last + most_lines]:
            # Of a statement in brackets, the last line that has code may not be the last one.
            if line.strip() and _indent(line) <= indent and line.lstrip()[0] not in ")]}":
                break
            lines.append(line)
        return "\n".join(lines) + "\n"

    def is_newer_than(self, process_started_at: float | None) -> bool:
        """Whether the file was changed after a process started: that process may run other lines."""
        return process_started_at is not None and self.modified_at > process_started_at + _CLOCK_SLACK_SECONDS


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def is_source(status: os.stat_result) -> bool:
    """Whether a file can be a source file: a regular one of a bounded size."""
    return stat.S_ISREG(status.st_mode) and status.st_size <= MAX_SOURCE_BYTES


def open_and_read(path: str) -> SourceFile | None:
    """Read a source file of this process; None if it is none, or cannot be read."""
    try:
        # O_NONBLOCK: a code object can be compiled with any file name, that of a FIFO too.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError):
        return None
    return read_and_close(descriptor)


def read_and_close(descriptor: int) -> SourceFile | None:
    """Read the source file that a descriptor is open on; None if it is none, or cannot be read."""
    try:
        status = os.fstat(descriptor)
        if not is_source(status):
            return None
        return SourceFile(decode_lines(files.read_at_most(descriptor, status.st_size)), status.st_mtime)
    except OSError:
        return None
    finally:
        files.close(descriptor)


def decode_lines(content: bytes) -> list[str]:
    """The lines of a file's content, in the encoding that it names."""
    encoding = "utf-8"
    for line in content.split(b"\n", 2)[:2]:
        cookie = _ENCODING_COOKIE.match(line)
        if cookie:
            encoding = cookie.group(1).decode("ascii")
            break
    content = content.removeprefix(b"\xef\xbb\xbf")
    try:
        if codecs.lookup(encoding).name in _SLOW_ENCODINGS:
            encoding = "utf-8"
        text = content.decode(encoding, "replace")
    except (LookupError, ValueError, Warning):
        # A warning: unicode_escape gives one for what it does not know, and an application may have made them errors.
        text = content.decode("utf-8", "replace")
    # Only the line ends that Python's tokenizer knows: str.splitlines() would also split at form feeds and others.
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")

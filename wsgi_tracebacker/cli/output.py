"""Writes results to stdout and failures to stderr, and decides on colour and exit code.

Characters that a terminal would act on are escaped here in messages; lines for stdout come escaped.
"""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, TextIO

from wsgi_tracebacker.errors import CannotWrite
from wsgi_tracebacker.wire.escape import printable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from wsgi_tracebacker.reader.survey import Answer, Survey

#: Some worker did not answer.
EXIT_UNANSWERED = 1

#: 128 + SIGINT, as in shells.
EXIT_INTERRUPTED = 130

#: How much text is joined before it is written. All at once would double the memory.
_CHARACTERS_AT_ONCE = 1024 * 1024


def wants_colour(choice: str, stream: TextIO) -> bool:
    """Whether to colour: ``always``, ``never``, or ``auto`` (on a terminal, unless NO_COLOR is set)."""
    if choice != "auto":
        return choice == "always"
    # https://no-color.org: any value except an empty one.
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def columns(stream: TextIO | None = None) -> int:
    """The width of the terminal behind stdout, or a stream; of what is no terminal (any more) COLUMNS, or else 80."""
    try:
        return os.get_terminal_size((stream or sys.stdout).fileno()).columns or 80
    except (OSError, ValueError):
        # Four digits at most: more is no width.
        wanted = os.environ.get("COLUMNS", "")
        return int(wanted) if wanted.isdecimal() and wanted.isascii() and len(wanted) <= 4 else 80


def write_text(lines: Iterable[str]) -> None:
    """Write lines to stdout; characters that its encoding does not have are written as escapes."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    text: list[str] = []
    length = 0
    for line in lines:
        text.append(f"{line}\n")
        length += len(text[-1])
        if length >= _CHARACTERS_AT_ONCE:
            write_bytes("".join(text).encode(encoding, "backslashreplace"))
            text.clear()
            length = 0
    write_bytes("".join(text).encode(encoding, "backslashreplace"))


def write_bytes(content: bytes) -> None:
    """Write bytes to stdout. A closed pipe (``| head``) is no error."""
    try:
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        _silence_stdout()
    except OSError as error:
        _silence_stdout()
        raise CannotWrite(f"stdout cannot be written: {error.strerror}") from error


def have_streams() -> None:
    """Replace stdout or stderr by /dev/null if the caller has closed it, as services may."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  (open to the end)


def fail(message: str | None) -> int:
    """Write a message to stderr, line by line; return the exit code of a failure that has no other."""
    try:
        for line in (message or "").splitlines():
            sys.stderr.write(_encodable(f"wsgi-tb: {printable(line)}\n"))
        sys.stderr.flush()
    except OSError:
        # stderr is closed; the exit code is all that is left.
        pass
    if message is None:
        _silence_stdout()
    return EXIT_UNANSWERED


def say(text: str, end: str = "\n") -> None:
    """Write to stderr what is neither a result nor a failure."""
    try:
        sys.stderr.write(_encodable(f"{text}{end}"))
        sys.stderr.flush()
    except OSError:
        pass


def one_line(text: str) -> str:
    """The lines of a message as one line that is fit for a terminal."""
    return "; ".join(printable(line) for line in text.splitlines())


def end(survey: Survey, *, dead_are_shown: bool = False) -> int:
    """Write to stderr which workers did not answer, and why; return the exit code.

    The dead of a base are one line, and a failure only if no other worker of it is there.

    :param dead_are_shown: stdout has that line already.
    """
    lines, is_complete = failures(survey, dead_are_shown=dead_are_shown)
    for line in lines:
        fail(line)
    return 0 if is_complete else EXIT_UNANSWERED


def failures(survey: Survey, *, dead_are_shown: bool = False) -> tuple[list[str], bool]:
    """The lines, and whether each base has a worker that answered and no other failure."""
    lines = list(survey.missing)
    is_complete = not survey.missing
    for base, answers in survey.by_base().items():
        dead = [answer for answer in answers if answer.state == "dead"]
        for answer in answers:
            # One that is dead alone is named.
            if answer.error is not None and (answer.state != "dead" or answers == dead[:1]):
                lines.append(f"{name(answer)}: {answer.error.reason}: {answer.error}")
                is_complete = False
        if len(answers) > 1 and dead:
            if not dead_are_shown:
                lines.append(f"{base}: {_dead_line(dead)}")
            is_complete &= len(dead) < len(answers)
    return lines, is_complete


def _dead_line(dead: list[Answer]) -> str:
    from wsgi_tracebacker.text.screens.worker_list import dead_line

    now = time.time()
    return dead_line([answer.last_alive_at for answer in dead], lambda moment: local_time(moment, now))


def local_time(moment: float, now: float) -> str:
    """A Unix time as people of this machine write it: ``09:12``, with the date if that is not today's."""
    then, today = time.localtime(moment), time.localtime(now)
    return time.strftime("%H:%M" if then[:3] == today[:3] else "%Y-%m-%d %H:%M", then)


def name(answer: Answer) -> str:
    """The name of a worker in a message."""
    pid = answer.shown_pid
    facts = [answer.target.socket] if pid is None else [f"pid {pid}", answer.target.socket]
    if answer.other_uid is not None:
        facts.append(f"another user's: uid {answer.other_uid}")
    if answer.state not in ("alive", "unknown", answer.error.reason if answer.error else ""):
        facts.append(answer.state)
    return f"worker{'' if answer.number is None else f' {answer.number}'} ({', '.join(facts)})"


def _encodable(text: str) -> str:
    encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _silence_stdout() -> None:
    """Redirect stdout to /dev/null, so that the interpreter's flush at exit does not fail on a closed pipe."""
    try:
        descriptor = os.open(os.devnull, os.O_WRONLY)
        os.dup2(descriptor, sys.stdout.fileno())
        os.close(descriptor)
    except (OSError, ValueError):
        pass

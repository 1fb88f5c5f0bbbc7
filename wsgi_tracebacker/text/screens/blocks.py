"""Shows the requests that stand at one place: who they are, and the one stack that all of them have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsgi_tracebacker.text.columns import wrap_all
from wsgi_tracebacker.text.kernel_waits import HOLDS_GIL
from wsgi_tracebacker.text.palette import PLAIN, Palette
from wsgi_tracebacker.text.screens import looks
from wsgi_tracebacker.text.threads import other_thread, request_lines, stack_lines
from wsgi_tracebacker.text.units import plural
from wsgi_tracebacker.wire.escape import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wsgi_tracebacker.model.groups import Group, ServedRequest

#: So many requests of one place are listed; --full lists all.
MAX_LISTED = 5

_INDENT = "  "

#: Above the stack, if the requests stand apart.
WHERE_OLDEST = "where the oldest of them is:"

#: What a sentence on a wait may begin with, so that it can be said of several requests.
_VERBS = ("connects", "resolves", "runs", "sends", "sleeps", "waits", "works")


def block(
    group: Group,
    *,
    number: int | None = None,
    columns: int = 80,
    full: bool = False,
    names_worker: bool = True,
    names_base: bool = False,
    palette: Palette = PLAIN,
) -> Iterator[str]:
    """The lines of one group: a heading, its requests, the oldest first, and the stack of the oldest.

    :param number: of this place in the overview; None where there is no overview: then there is no heading either.
    :param full: every request and every frame.
    :param names_worker: whether each request's line has its worker's process id.
    :param names_base: whether it has its worker's base path.
    """
    if number is not None:
        begin = f"{number}  "
        first, *others = wrap_all(heading(group), columns - len(begin))
        yield f"{palette.paint(palette.heading, str(number))}  {first}"
        for line in others:
            yield f"{' ' * len(begin)}{line}"
    most = len(group.requests) if full else MAX_LISTED
    for served in group.requests[:most]:
        name = who(served, names_worker=names_worker, names_base=names_base)
        verdict = looks.verdict(served.looks) if served.looks is not None else None
        for line in request_lines(
            name, served.stack, served.source, verdict=verdict, columns=columns - len(_INDENT), palette=palette
        ):
            yield f"{_INDENT}{line}"
    if len(group.requests) > most:
        yield f"{_INDENT}{palette.paint(palette.quiet, f'… {len(group.requests) - most} more; --full lists them')}"
    # The line of a request that holds the GIL says so.
    if number is None and group.waits_for not in (None, HOLDS_GIL):
        for line in wrap_all(printable(group.waits_for), columns - len(_INDENT * 2)):
            yield f"{_INDENT * 2}{palette.paint(palette.heading, line)}"
    oldest = group.oldest
    if stand_apart(group):
        yield f"{_INDENT * 2}{palette.paint(palette.quiet, WHERE_OLDEST)}"
    for line in stack_lines(oldest.stack, oldest.source, oldest.ownership, cwd=oldest.cwd, full=full, palette=palette):
        yield f"{_INDENT * 2}{line}"
    if oldest.other_thread is not None:
        yield f"{_INDENT}{other_thread(oldest.other_thread, palette)}"
        for line in stack_lines(
            oldest.other_thread, oldest.source, oldest.ownership, cwd=oldest.cwd, full=full, palette=palette
        ):
            yield f"{_INDENT * 2}{line}"


def stand_apart(group: Group) -> bool:
    """Whether these requests are in different places, so that the stack that is shown is only that of the oldest."""
    return any(served.own_frames != group.oldest.own_frames for served in group.requests)


def heading(group: Group) -> str:
    """``14 requests wait for a connection of QueuePool: all 15 are out``."""
    count = len(group.requests)
    requests = plural(count, "request")
    if group.waits_for is None:
        return requests
    words = printable(group.waits_for)
    verb, _, rest = words.partition(" ")
    if verb not in _VERBS:
        return f"{requests}: {words}"
    if count > 1:
        verb = verb.removesuffix("s")
    return f"{requests} {verb} {rest}".rstrip()


def who(served: ServedRequest, *, names_worker: bool, names_base: bool) -> str:
    """What the thread of a request is called."""
    host = "" if served.host is None else f"{served.host} "
    if served.worker is None:
        # uWSGI's socket does not say who it is; the thread's name may.
        return host + served.stack.name
    core = served.stack.core
    name = f"{host}worker {served.worker} core {'?' if core is None else core}"
    if names_base and served.base:
        name += f" of {served.base}"
    if names_worker and served.pid is not None:
        name += f", pid {served.pid}"
    return name

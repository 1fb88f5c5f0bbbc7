"""Shows a postmortem to people: what a worker was serving when it died."""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING

from wsgi_tracebacker.model.code_ownership import CodeOwnership
from wsgi_tracebacker.text.folding import LOG_ELLIPSIS, folded
from wsgi_tracebacker.text.units import OTHER_USER, plural, size
from wsgi_tracebacker.wire.black_box import faulthandler_text
from wsgi_tracebacker.wire.black_box.dead_table import CLOCK_TICK_SECONDS
from wsgi_tracebacker.wire.escape import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wsgi_tracebacker.model.report import Postmortem
    from wsgi_tracebacker.model.snapshot import Frame

#: In the line above each stack of faulthandler's.
_NEWEST_FIRST = re.compile(r"(?<=\(most recent call )first(?=(?:, approximate line numbers)?\):$)")


def lines(postmortem: Postmortem, *, own_uid: int | None = None) -> Iterator[str]:
    """The whole postmortem: the worker, its requests, its last stacks; marked if it is not of ``own_uid``."""
    unlisted, torn = postmortem.unlisted_requests, postmortem.torn_requests
    count = len(postmortem.requests) + unlisted + torn
    died = f"died with {plural(count, 'request')} in flight" if count else "may have died with requests in flight"
    last = f", its last request began {_time(postmortem.last_written_at)}" if count else ""
    whose = "" if postmortem.uid in (None, own_uid) else f", {OTHER_USER} {postmortem.uid}"
    who = f"worker {postmortem.number}, pid {postmortem.pid}{whose}"
    had = f", it had {size(postmortem.resident_bytes)} of memory" if postmortem.resident_bytes else ""
    yield f"{who}, {died}; started {_time(postmortem.started_at)}{last}{had}"
    for request in postmortem.requests:
        facts = [f"core {request.core}", f"since {_time(request.started_at)}"]
        if request.request_id:
            facts.append(f"request id {request.request_id}")
        if request.remote_address:
            facts.append(f"from {request.remote_address}")
        if request.resident_bytes:
            facts.append(f"the worker had {size(request.resident_bytes)} when it became slow")
        yield printable(f"  {request.method} {request.path}  ({', '.join(facts)})")
    if unlisted:
        yield f"  {plural(unlisted, 'request')} more, begun later"
    if torn:
        yield f"  {plural(torn, 'request')} that {'was' if torn == 1 else 'were'} being noted: nothing else is known"
    if postmortem.unrecorded_cores:
        yield f"  threads beyond its table: {postmortem.unrecorded_cores}; what they served, if anything, is not known"
    if postmortem.stacks:
        yield f"its last report or stacks{_when(postmortem, count)}:"
        for line in _folded(postmortem.stacks.rstrip().split("\n"), postmortem.application):
            yield f"  {line}" if line else ""


def _folded(written: list[str], application: str | None) -> Iterator[str]:
    """What was written last; in a dump of faulthandler's each stack is folded and turned, the outermost call first."""
    frames = [faulthandler_text.parse_frame(line) for line in written]
    ownership = CodeOwnership.of_frames(application, (frame for frame in frames if frame is not None))
    calls: list[Frame] = []
    # Nothing ends the last stack.
    for line, frame in zip([*written, None], [*frames, None], strict=True):
        if frame is not None:
            calls.append(frame)
            continue
        is_cut = line == faulthandler_text.FRAMES_OMITTED
        if is_cut:
            yield "  [the outermost frames are left out]"
        yield from (f"  {shown}" for shown in folded(calls[::-1], ownership, ellipsis=LOG_ELLIPSIS))
        calls.clear()
        if line is not None and not is_cut:
            yield printable(_NEWEST_FIRST.sub("last", line))


def _when(postmortem: Postmortem, count: int) -> str:
    """When the stacks were written, and whether they can be of the last request; "" where that is not known."""
    written_at = postmortem.stacks_written_at
    if written_at is None:
        return ""
    # A dump has no time in it. That of an earlier stall, made for a reader, does not show why the worker died.
    is_older = count and written_at < postmortem.last_written_at - CLOCK_TICK_SECONDS
    return f", written {_time(written_at)}{', before its last request began' if is_older else ''}"


def _time(unix: float) -> str:
    """``2026-01-31 17:04:00+01:00``, in the local time zone."""
    try:
        return datetime.fromtimestamp(unix).astimezone().isoformat(" ", "seconds")
    except (OverflowError, ValueError, OSError):
        return "an unknown time"

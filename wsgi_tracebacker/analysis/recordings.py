"""Puts recordings of several hosts together: equal stacks stay apart by host, and a flame graph adds them up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsgi_tracebacker.model.recording import Recording
from wsgi_tracebacker.text.units import plural

if TYPE_CHECKING:
    from collections.abc import Sequence

#: More hosts than these are counted instead of named.
_NAMED_HOSTS = 3


def merge(recordings: Sequence[Recording]) -> Recording:
    """All of them as one; there is at least one."""
    hosts = list(dict.fromkeys(each.host for each in recordings))
    return Recording(
        started_at=min(each.started_at for each in recordings),
        wanted_seconds=max(each.wanted_seconds for each in recordings),
        seconds=max(each.seconds for each in recordings),
        rate=max(each.rate for each in recordings),
        host=", ".join(hosts) if len(hosts) <= _NAMED_HOSTS else plural(len(hosts), "host"),
        workers=tuple(worker for each in recordings for worker in each.workers),
        application=next((each.application for each in recordings if each.application), None),
        cwd=next((each.cwd for each in recordings if each.cwd), None),
        requests=sum(each.requests for each in recordings),
        exact=sum(each.exact for each in recordings),
        cut=sum(each.cut for each in recordings),
        torn=sum(each.torn for each in recordings),
        torn_seconds=sum(each.torn_seconds for each in recordings),
        cpu_seconds=sum(each.cpu_seconds for each in recordings),
        stacks=tuple(sorted((stack for each in recordings for stack in each.stacks), key=lambda stack: -stack.seconds)),
    )

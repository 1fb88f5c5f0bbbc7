"""Which threads of this process the middleware has started."""

from __future__ import annotations

from wsgi_tracebacker.worker.blackbox.own_threads import RUN_CODE
from wsgi_tracebacker.worker.stacks import walk


def running() -> list[int]:
    """The idents of those that run now."""
    return [ident for ident, stack in walk.walk(())[0].items() if stack[-1][0] is RUN_CODE]

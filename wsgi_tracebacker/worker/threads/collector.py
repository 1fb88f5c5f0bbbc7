"""Holds the garbage collector off while a function runs."""

from __future__ import annotations

import gc
import sys
from operator import methodcaller
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

#: Up to 3.11 any allocation may start a garbage collection. In sys._current_frames(), which holds the runtime's lock, a
#: destructor that needs that lock then waits for ever (python/cpython#106883). stacks.walk says what else can happen.
_HOLD_COLLECTOR = sys.implementation.name == "cpython" and sys.version_info < (3, 12)

_call: Callable[[Callable[[], Any]], Any] = methodcaller("__call__")


def hold(function: Callable[[], object]) -> None:
    """Call ``function`` while no garbage collection can start.

    C code alone disables and enables the collector: between two lines of Python another thread could read that it is
    off, and later disable it for good when it restores what it read.
    """
    if not (_HOLD_COLLECTOR and gc.isenabled()):
        function()
        return
    try:
        list(map(_call, (gc.disable, function, gc.enable)))
    except BaseException:
        gc.enable()
        raise

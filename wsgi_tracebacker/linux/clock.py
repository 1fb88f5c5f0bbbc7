"""The clocks of the serving process, also where a test or a tool replaced those of ``time``.

freezegun puts its own functions in the place of those of ``time``, there and in every module that has imported them;
``unittest.mock`` replaces them in ``time``. A request would then be years old, or never end. So these functions are of
a second instance of the module ``time``: the same code, at the same cost, and other objects. time-machine replaces
the C code of the wall clock, so dates are its dates in a test that travels; it leaves the monotonic clock alone.
"""

from __future__ import annotations

import functools
import importlib.util
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def _second_instance() -> Any:
    spec = importlib.util.find_spec("time")
    if spec is None or spec.loader is None:
        return time
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _bound(name: str) -> Any:
    function = getattr(_time, name)
    # PyPy has one instance of the module. A wrapper is another object, too.
    return functools.partial(function) if function is getattr(time, name) else function


_time = _second_instance()

#: Seconds on the monotonic clock, which nobody can set.
monotonic: Callable[[], float] = _bound("monotonic")
#: The same in nanoseconds.
monotonic_ns: Callable[[], int] = _bound("monotonic_ns")
#: Unix seconds, for people and logs.
unix_time: Callable[[], float] = _bound("time")
clock_gettime: Callable[[int], float] = _bound("clock_gettime")
strftime: Callable[[str], str] = _bound("strftime")

"""Gives everybody who asks within a second the same answer, so that many clients cost the workers what one costs."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

SHARED_SECONDS = 1.0


class Shared(Generic[T]):
    """The result of a function that is costly: who asks while it is made, or shortly after, gets the same."""

    def __init__(self, make: Callable[[], T], clock: Callable[[], float] = time.monotonic) -> None:
        self._make = make
        self._clock = clock
        self._lock = threading.Lock()
        self._made: tuple[float, T] | None = None

    def get(self) -> T:
        """Raises what the function raises."""
        with self._lock:
            if self._made is None or self._clock() - self._made[0] >= SHARED_SECONDS:
                made = self._make()
                # From its end on: where it takes longer than that, those who waited for it must not make it anew.
                self._made = self._clock(), made
            return self._made[1]

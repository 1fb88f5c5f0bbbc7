"""Tells one statement that takes long from many short ones that are all the same, by the samples of a slow request.

A sample has the statement that the request ran, and which call of the library that was: the ids of the frames from the
library's function outwards. As long as a call runs, all of these frames are the same objects. So if one of them is
another one, it is a new call. The reverse is not certain, because a new frame may get the memory of one that is gone
(on CPython 3.10 it always does, if the function is not recursive), so there may be more new calls than are counted.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING

from wsgi_tracebacker.model.waits import WaitsFor
from wsgi_tracebacker.text.waits import with_sentence

if TYPE_CHECKING:
    from wsgi_tracebacker.worker.waits.calls import Statement

#: Samples that count, the last ones: five seconds at the usual rate.
_LOOKS = 50
#: Fewer new calls are no loop.
_MIN_NEW_CALLS = 5
#: At so many of the samples the request ran this statement, at least, or something else takes more time.
_MIN_SHARE = 1 / 3
#: If there was no new call at the last samples, the loop has ended, or waits in one call.
_RECENT_LOOKS = 10


class RepeatedStatement:
    """The statements of one slow request at its last samples. Used by the watchdog's thread."""

    def __init__(self) -> None:
        #: Of each sample the statement, empty if it ran none that is known, and whether that was a new call.
        self._looks: deque[tuple[str, bool]] = deque(maxlen=_LOOKS)
        #: The call at the last sample at which that was known; None: at no sample yet.
        self._call: tuple[int, ...] | None = None

    def look(self, found: Statement | None) -> None:
        """Add what one sample found; None if that is not known."""
        if found is None:
            self._looks.append(("", False))
            return
        is_new = bool(found.text) and self._call is not None and found.call != self._call
        self._call = found.call
        self._looks.append((found.text, is_new))

    def cause(self) -> WaitsFor | None:
        """That the request runs the same statement again and again; None if it does not."""
        counted = Counter(text for text, is_new in self._looks if is_new)
        if not counted:
            return None
        [(statement, new_calls)] = counted.most_common(1)
        looks = len(self._looks)
        share = sum(text == statement for text, _ in self._looks) / looks
        is_recent = (statement, True) in list(self._looks)[-_RECENT_LOOKS:]
        if new_calls < _MIN_NEW_CALLS or share < _MIN_SHARE or not is_recent:
            return None
        return with_sentence(WaitsFor("repeated_statement", statement=statement, new_calls=new_calls, looks=looks))

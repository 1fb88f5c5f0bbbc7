"""Which numbers are times.

Knows that what others wrote may hold ``nan``, infinities and numbers at which arithmetic and calendars end; a reader
that lets them in fails later, when it subtracts two of them or writes JSON. Refuses to know which clock it was.
"""

from __future__ import annotations

#: Seconds, since the epoch, since boot or of an age: 30,000 years are more than any clock shows.
_MAX_SECONDS = 1e12


def is_time(seconds: float) -> bool:
    """Whether it is a number of seconds that a clock can have shown; not so for ``nan``."""
    return -_MAX_SECONDS <= seconds <= _MAX_SECONDS

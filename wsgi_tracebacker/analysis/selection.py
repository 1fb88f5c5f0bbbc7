"""Chooses requests: by a pattern of their path, and by their age."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wsgi_tracebacker.model.snapshot import Stack


def is_chosen(stack: Stack, older_seconds: float | None = None, path_pattern: str | None = None) -> bool:
    """Whether the request of a thread is at least so old, and its path matches (``*`` also matches slashes).

    A request that uWSGI does not name has no known age, and no path that could match.
    """
    request = stack.request
    if request is None:
        return path_pattern is None
    if older_seconds is not None and request.age_seconds < older_seconds:
        return False
    return path_pattern is None or fnmatchcase(request.path, path_pattern)

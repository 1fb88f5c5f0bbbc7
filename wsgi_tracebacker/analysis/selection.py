"""Chooses requests: by a pattern of their path, and by their age."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from wsgi_tracebacker.model.questions import is_serving

if TYPE_CHECKING:
    from wsgi_tracebacker.model.snapshot import Snapshot, Stack


class Selection(NamedTuple):
    """Which requests are wanted; by default all."""

    #: At least so old. The age of uWSGI's requests is not known, so that they are always old enough.
    older_seconds: float | None = None
    #: As in shells, of the whole path; ``*`` also matches slashes. uWSGI's requests have no path.
    path_pattern: str | None = None

    @property
    def is_everything(self) -> bool:
        return self.older_seconds is None and self.path_pattern is None

    def has(self, stack: Stack) -> bool:
        """Whether the request of a thread is wanted."""
        request = stack.request
        if request is None:
            return self.path_pattern is None
        if self.older_seconds is not None and request.age_seconds < self.older_seconds:
            return False
        if self.path_pattern is None:
            return True
        # Imported only here: few ask for a path, and everybody waits for the command to start.
        from fnmatch import fnmatchcase  # noqa: PLC0415

        return fnmatchcase(request.path, self.path_pattern)

    def wanted(self, snapshot: Snapshot, *, with_resting: bool = False) -> tuple[Snapshot, int]:
        """The snapshot with only the wanted requests, and how many others it has.

        ``with_resting``: also with the threads that serve no request.
        """
        if self.is_everything:
            return snapshot, 0
        kept = []
        left_out = 0
        for stack in snapshot.stacks:
            if not is_serving(stack, snapshot):
                if with_resting:
                    kept.append(stack)
            elif self.has(stack):
                kept.append(stack)
            else:
                left_out += 1
        return snapshot._replace(stacks=tuple(kept)), left_out

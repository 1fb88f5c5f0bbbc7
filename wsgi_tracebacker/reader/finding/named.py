"""Finds the workers that the operator named, by path and number, and says in words what is not there."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from wsgi_tracebacker.reader.finding import discovery

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from wsgi_tracebacker.reader.finding.discovery import Target


def find(arguments: Sequence[str], numbers: Collection[int]) -> tuple[dict[str, Target], list[str]]:
    """The workers by path (so that one named twice is there once), and what is not there.

    That is a line for each argument without workers, each number that does not exist, and each user with too many.

    :param numbers: only workers with one of these numbers, if there are any.
    """
    targets: dict[str, Target] = {}
    missing: list[str] = []
    found = discovery.find(arguments)
    for argument, behind in zip(arguments, found.targets, strict=True):
        if isinstance(behind, tuple) and behind:
            targets.update((os.path.abspath(target.socket), target) for target in behind)
        elif isinstance(behind, tuple):
            missing.append(_nobody(argument))
        else:
            reason = behind.strerror if isinstance(behind, OSError) else str(behind)
            missing.append(f"no workers behind {argument!r}: its folder cannot be listed: {reason}")
    missing += [
        f"{count} workers of uid {uid} are left out: of another user no more than {discovery.MAX_USER_WORKERS} are read"
        for uid, count in sorted(found.left_out.items())
    ]
    if not numbers:
        return targets, missing
    there = sorted({target.number for target in targets.values() if target.number is not None})
    if targets:
        known = ", ".join(map(str, there)) or "none with a number"
        missing += [f"no worker {number}: there is {known}" for number in sorted(set(numbers).difference(there))]
    return {path: target for path, target in targets.items() if target.number in numbers}, missing


def _nobody(argument: str) -> str:
    line = f"no workers behind {argument!r}: neither {argument}1, {argument}2 ... nor a socket of that name."
    if os.path.isdir(argument) and not argument.endswith("/"):
        return f"{line} It is a folder: name the base path inside it, as in {os.path.join(argument, 'tbsocket')!r}."
    return f"{line} A worker makes its socket with its first request; is the base the one of TracebackerMiddleware?"

"""Finds the route of a request: its path without the parts that differ from one request to the next."""

from __future__ import annotations

import re

#: The most routes that are told apart. An application with more of them has paths that no rule here recognises.
MAX_ROUTES = 200
#: The route of all others.
OTHER = "(other)"

#: More segments than any route has: the rest of a longer path is left out.
_MAX_SEGMENTS = 12
#: A longer word is a token, a title or a name.
_MAX_WORD_CHARACTERS = 24
#: From this length on, a word of letters and digits is a token; a shorter one may be a version or a format.
_MIN_TOKEN_CHARACTERS = 16

_UUID = re.compile(r"[0-9a-fA-F]{8}-?(?:[0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}")
_HASH = re.compile(r"(?=[a-fA-F]*[0-9])[0-9a-fA-F]{8,}")
_WORDS = re.compile(r"([-_.,;:~+@=!$ ]+)")
#: Parts that were replaced, with only separators between them.
_REPEATED = re.compile(r":(?:[-_.,;:~+@=!$ ]+:(?![^-_.,;:~+@=!$ /]))+")


class Routes:
    """The routes of many requests; beyond MAX_ROUTES each new one is OTHER."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def route(self, method: str, path: str) -> str:
        """``GET /orders/:``."""
        found = f"{method} {route_of(path)}"
        if found not in self._known:
            if len(self._known) >= MAX_ROUTES:
                return OTHER
            self._known.add(found)
        return found


def route_of(path: str) -> str:
    """The path with a colon in the place of each number, UUID, hash and long word: ``/orders/:/items``."""
    segments = path.split("/", _MAX_SEGMENTS + 1)
    if len(segments) > _MAX_SEGMENTS + 1:
        segments[-1] = "..."
    return "/".join(map(_segment, segments))


def _segment(segment: str) -> str:
    if segment.isascii() and segment.isalpha() and len(segment) <= _MAX_WORD_CHARACTERS:
        return segment
    words = _WORDS.split(_UUID.sub("0", segment))
    replaced = "".join(":" if _differs(word) else word for word in words)
    # What is long in all is a title: /posts/how-to-bake-bread-in-a-small-kitchen.
    return ":" if len(replaced) > _MAX_WORD_CHARACTERS else _REPEATED.sub(":", replaced)


def _differs(word: str) -> bool:
    """Whether a word is likely to be another one in the next request."""
    if word.isdigit() or len(word) > _MAX_WORD_CHARACTERS or _HASH.fullmatch(word):
        return True
    return len(word) >= _MIN_TOKEN_CHARACTERS and not word.isalpha() and word.isalnum()

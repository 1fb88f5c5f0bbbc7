"""The card of a worker, ``<base><N>.worker``, and where the files of worker N are.

Knows the layout: one JSON object on one line. Refuses to open, lock or believe anything: whether the card's owner
lives is a question for its lock and its socket.
"""

from __future__ import annotations

import json
import os
from typing import Any

from wsgi_tracebacker.errors import FormatError
from wsgi_tracebacker.model.card import Card
from wsgi_tracebacker.wire.times import is_time

#: Rises when a key changes its meaning.
CARD_VERSION = 1

#: A card is some 400 bytes, of which paths are the part that can grow; nobody reads more than this of one.
MAX_CARD_BYTES = 16 * 1024

CARD_SUFFIX = ".worker"

#: How every card begins, of whatever version.
START = b'{"card":'

#: ``sun_path`` holds 108 bytes with its closing NUL on Linux, see unix(7).
MAX_SOCKET_PATH_BYTES = 107

#: Room kept for the number: a base must fit with a five-digit one.
MAX_NUMBER_DIGITS = 5

_INTEGERS = ("number", "pid", "start_ticks", "pid_namespace", "uid")
_STRINGS = ("base", "boot_id", "cwd")
_OPTIONAL_STRINGS = ("server", "application", "black_box", "stacks")
#: Of these, what readers open or look up.
_PATHS = ("base", "cwd", "black_box", "stacks")

#: What the kernel counts in 64 bits at most.
_INTEGER_LIMIT = 1 << 64


def socket_path(base: str, number: int) -> str:
    """The socket of worker ``number``: plain concatenation, as uWSGI does it."""
    return f"{base}{number}"


def card_path(base: str, number: int) -> str:
    """The card of worker ``number``."""
    return f"{base}{number}{CARD_SUFFIX}"


def encode(card: Card) -> bytes:
    """One line of JSON, in ASCII."""
    return json.dumps({"card": CARD_VERSION, **card._asdict()}).encode("ascii") + b"\n"


def decode(content: bytes) -> Card:
    """Read a card back.

    Raises FormatError for anything that is not a whole card of this version: a card that is being written just now
    looks like that too, so a reader that meets one looks again.
    """
    if len(content) > MAX_CARD_BYTES:
        raise FormatError(f"the card is larger than {MAX_CARD_BYTES} bytes")
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"the card is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise FormatError("the card is not a JSON object")
    version = document.get("card")
    if version != CARD_VERSION:
        raise FormatError(f"the card is of version {version!r}, this program reads version {CARD_VERSION}")
    for key in _INTEGERS:
        value = document.get(key)
        if type(value) is not int or not 0 <= value < _INTEGER_LIMIT:
            raise FormatError(f"the card has no whole number {key!r}")
    for key in _STRINGS:
        if type(document.get(key)) is not str:
            raise FormatError(f"the card has no text {key!r}")
    for key in _OPTIONAL_STRINGS:
        if not isinstance(document.get(key), (str, type(None))):
            raise FormatError(f"the card's {key!r} is not text")
    for key in _PATHS:
        if not _is_path(document.get(key)):
            raise FormatError(f"the card's {key!r} can be no path")
    if type(document.get("dump_signal")) not in (int, type(None)):
        raise FormatError("the card's 'dump_signal' is not a number")
    started_at: Any = document.get("started_at")
    if type(started_at) not in (int, float) or not is_time(started_at):
        raise FormatError("the card has no time 'started_at'")
    content_of: dict[str, Any] = {field: document.get(field) for field in Card._fields}
    return Card(**content_of)


def _is_path(value: str | None) -> bool:
    """Whether a system call would take it at all: else every reader of a forged card would have to be ready for it."""
    try:
        return value is None or b"\0" not in os.fsencode(value)
    except UnicodeEncodeError:
        return False

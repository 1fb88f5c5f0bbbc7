"""Refuses JSON documents that would take far more memory than their length: many tiny parts.

``json.loads`` makes an object of 50 to 300 bytes of each part (measured: 62 MiB of ``{},`` were 1.7 GB and 14 s).
"""

from __future__ import annotations

from wsgi_tracebacker.errors import FormatError

#: A document of ours has more bytes than these for each object or list in it, and for each value. The densest part
#: that it has many of is an empty request, with 2 and 11 of them in 125 bytes; a frame has 1 and 9 in 116.
_BYTES_A_CONTAINER = 48
_BYTES_A_VALUE = 10
#: A short document may have this many of either.
_ALWAYS = 100

#: How much is split at once, so that the pieces do not fill the memory.
_WINDOW_BYTES = 64 * 1024
_ALL_BUT_COMMAS_BRACKETS_AND_QUOTES = bytes(set(range(256)).difference(b'{[,"'))


def check_density(data: bytes) -> None:
    """Raise FormatError for a document of far more, and far smaller, parts than one of ours."""
    most_containers = _ALWAYS + len(data) // _BYTES_A_CONTAINER
    most_values = _ALWAYS + len(data) // _BYTES_A_VALUE
    # Every value stands behind a comma or is the first of its container. For nearly every document this is enough.
    containers = data.count(b"{") + data.count(b"[")
    if containers <= most_containers and containers + data.count(b",") <= most_values:
        return
    containers, commas = _outside_strings(data)
    if containers > most_containers or containers + commas > most_values:
        raise FormatError("the document has more parts than one of its length can have")


def _outside_strings(data: bytes) -> tuple[int, int]:
    """How many objects and lists, and how many commas, a document has besides those in its strings.

    Whoever sends a request chooses what is in strings, and must not make its worker unreadable.
    """
    rest = data.replace(rb"\\", b"").replace(rb"\"", b"").translate(None, _ALL_BUT_COMMAS_BRACKETS_AND_QUOTES)
    containers = commas = 0
    in_string = False
    for begin in range(0, len(rest), _WINDOW_BYTES):
        pieces = rest[begin : begin + _WINDOW_BYTES].split(b'"')
        outside = b"".join(pieces[in_string::2])
        commas += outside.count(b",")
        containers += len(outside) - outside.count(b",")
        in_string ^= len(pieces) % 2 == 0
    return containers, commas

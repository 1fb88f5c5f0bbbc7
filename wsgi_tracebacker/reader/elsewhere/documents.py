"""Reads documents of ``wsgi-tb read --format json`` from files and from stdin, one after the other.

Several documents stand in lines, as ``pdsh -N`` writes them; a single one may be written over several lines, as by jq.
Whatever else is there is a line for the operator.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from typing import TYPE_CHECKING, BinaryIO

from wsgi_tracebacker.errors import FormatError
from wsgi_tracebacker.wire.documents import reading_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from wsgi_tracebacker.model.reading import Document

STDIN = "-"

#: A document of 1,000 workers with eight requests each is 50 MB.
MAX_DOCUMENT_BYTES = 128 * 1024 * 1024


def is_document(argument: str) -> bool:
    """Whether an argument of the command is a file of documents, or stdin; not so for a card, or what is not there."""
    if argument == STDIN:
        return True
    try:
        return stat.S_ISREG(os.stat(argument).st_mode) and not argument.endswith(".worker")
    except (OSError, ValueError):
        return False


def read(arguments: Sequence[str]) -> Iterator[Document | str]:
    """The documents behind these arguments; a line of text for what is none."""
    for argument in arguments:
        name = "stdin" if argument == STDIN else argument
        try:
            with contextlib.ExitStack() as opened:
                stream = sys.stdin.buffer if argument == STDIN else opened.enter_context(open(argument, "rb"))
                yield from _read(stream, name)
        except OSError as error:
            yield f"{name} cannot be read: {error.strerror or error}"


def _read(stream: BinaryIO, name: str) -> Iterator[Document | str]:
    number = 0
    while line := stream.readline(MAX_DOCUMENT_BYTES + 1):
        number += 1
        if not line.strip():
            continue
        if len(line) > MAX_DOCUMENT_BYTES:
            yield f"{name}, line {number}: longer than {MAX_DOCUMENT_BYTES >> 20} MiB"
            return
        try:
            yield reading_json.decode(line)
        except FormatError as error:
            if line.strip() == b"{":
                yield _over_several_lines(line + stream.read(MAX_DOCUMENT_BYTES), name)
                return
            yield f"{name}, line {number}: {error}"


def _over_several_lines(content: bytes, name: str) -> Document | str:
    try:
        return reading_json.decode(content)
    except FormatError as error:
        return f"{name}: {error}"

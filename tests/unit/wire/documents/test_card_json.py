"""A worker's card: the round trip, and every way in which it can be no card."""

from __future__ import annotations

import json
import math
import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.wire.hostile import documents
from tests.unit.wire.strategies import numbers, optional_texts, texts
from wsgi_tracebacker.errors import FormatError
from wsgi_tracebacker.model.card import Card
from wsgi_tracebacker.wire.documents.card_json import (
    CARD_VERSION,
    MAX_CARD_BYTES,
    card_path,
    decode,
    encode,
    socket_path,
)

_paths = texts.map(lambda text: text.replace("\0", ""))
cards = st.builds(
    Card,
    number=st.integers(1, 99_999),
    base=_paths,
    pid=st.integers(1, 2**22),
    start_ticks=st.integers(0, 2**63),
    boot_id=texts,
    pid_namespace=st.integers(0, 2**32),
    uid=st.integers(0, 2**32 - 1),
    server=optional_texts,
    application=optional_texts,
    cwd=_paths,
    started_at=numbers,
    black_box=st.none() | _paths,
    stacks=st.none() | _paths,
    dump_signal=st.none() | st.integers(1, 64),
)

CARD = Card(
    number=2,
    base="/tmp/tb",
    pid=77,
    start_ticks=5,
    boot_id="b",
    pid_namespace=4026531836,
    uid=0,
    server="gunicorn/27",
    application="a:b",
    cwd="/srv/\udce9",
    started_at=1.5,
)


@given(cards)
def test_a_card_is_read_as_it_was_written(card: Card) -> None:
    """Any card, with names that are not even UTF-8, comes back equal from one line of ASCII."""
    content = encode(card)
    assert decode(content) == card
    assert (content.count(b"\n"), content[-1:], content.isascii()) == (1, b"\n", True)


@given(st.binary(max_size=80))
def test_garbage_is_a_format_error(content: bytes) -> None:
    """Bytes that are no card are a FormatError and nothing else."""
    with pytest.raises(FormatError):
        decode(content)


@given(documents(json.loads(encode(CARD))))
def test_any_document_is_a_card_or_a_format_error(content: bytes) -> None:
    """One that is accepted has numbers that a kernel could give, names that a path can hold, and is written again."""
    try:
        card = decode(content)
    except FormatError:
        return
    assert decode(encode(card)) == card
    assert math.isfinite(card.started_at)
    assert all(
        0 <= number < 2**64 for number in (card.number, card.pid, card.start_ticks, card.pid_namespace, card.uid)
    )
    for path in (card.base, card.cwd, card.black_box or "", card.stacks or ""):
        assert "\0" not in path
        os.fsencode(path)


def test_a_card_cut_short_is_a_format_error() -> None:
    """No proper part of a card passes for a card: it is what a reader sees while one is written."""
    content = encode(CARD)
    for length in range(len(content) - 1):
        with pytest.raises(FormatError):
            decode(content[:length])


@pytest.mark.parametrize("key", ["number", "pid", "base", "uid", "boot_id", "cwd", "started_at", "server"])
@pytest.mark.parametrize("value", [True, [], {}])
def test_a_value_of_the_wrong_type_is_a_format_error(key: str, value: Any) -> None:
    """A key whose value is of another type is named in the error."""
    document = json.loads(encode(CARD))
    document[key] = value
    with pytest.raises(FormatError):
        decode(json.dumps(document).encode())


@pytest.mark.parametrize(
    "content", [b"[]", b"1", b'"x"', b"[" * 10_000, b"9" * 5_000, b"{}", b"\xff\xfe", b" " * 20_000]
)
def test_json_that_is_no_card_is_a_format_error(content: bytes) -> None:
    """JSON of another shape, nested too deep or too large, is a FormatError."""
    with pytest.raises(FormatError):
        decode(content)


def test_another_version_is_refused_by_number() -> None:
    """A card of a later version is not guessed at; the error names both versions."""
    document = json.loads(encode(CARD)) | {"card": CARD_VERSION + 1}
    with pytest.raises(FormatError, match=rf"version {CARD_VERSION + 1}.*version {CARD_VERSION}"):
        decode(json.dumps(document).encode())


def test_a_card_that_has_more_keys_is_read() -> None:
    """Keys that are not known are passed over, so that a card may grow."""
    document = json.loads(encode(CARD)) | {"later": 1}
    assert decode(json.dumps(document).encode()) == CARD


def test_a_card_that_is_too_large_is_not_parsed() -> None:
    """A card beyond the limit is refused for its size alone."""
    with pytest.raises(FormatError, match="larger"):
        decode(encode(CARD) + b" " * MAX_CARD_BYTES)


@pytest.mark.parametrize(("base", "socket"), [("/tmp/tbsocket", "/tmp/tbsocket3"), ("/tmp/tb.", "/tmp/tb.3")])
def test_paths_are_plain_concatenation(base: str, socket: str) -> None:
    """The socket is base and number and nothing between; the card is that with its ending."""
    assert (socket_path(base, 3), card_path(base, 3)) == (socket, socket + ".worker")

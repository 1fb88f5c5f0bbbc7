"""The card of a worker, ``<base><N>.worker``: which process has the number N, as one JSON object on one line.

Also the names of the files of worker N. Whether the owner of a card lives is found out from its lock and its socket.
"""

from __future__ import annotations

from wsgi_tracebacker.errors import FormatError
from wsgi_tracebacker.model.card import Card
from wsgi_tracebacker.wire.documents.records import COUNT, INTEGER, NUMBER, PATH, TEXT, Key, Record, load

#: Rises when a key changes its meaning.
CARD_VERSION = 1

#: A card has about 400 bytes, and more with long paths. Readers read no more than this.
MAX_CARD_BYTES = 16 * 1024

CARD_SUFFIX = ".worker"

#: How a card begins, of any version.
START = b'{"card":'

#: ``sun_path`` has 108 bytes on Linux, one of which is the closing NUL, see unix(7).
MAX_SOCKET_PATH_BYTES = 107

#: A base must leave room for a number of five digits.
MAX_NUMBER_DIGITS = 5

_CARD = Record(
    Card,
    Key("number", COUNT),
    Key("base", PATH),
    Key("pid", COUNT),
    Key("start_ticks", COUNT),
    Key("boot_id", TEXT),
    Key("pid_namespace", COUNT),
    Key("uid", COUNT),
    Key("server", TEXT, None),
    Key("application", TEXT, None),
    Key("cwd", PATH),
    Key("started_at", NUMBER),
    Key("black_box", PATH, None),
    Key("stacks", PATH, None),
    Key("dump_signal", INTEGER, None),
)
# The first request of a process writes a card.
_CARD.prepare()


def socket_path(base: str, number: int) -> str:
    """The socket of worker ``number``: plain concatenation, as uWSGI does it."""
    return f"{base}{number}"


def card_path(base: str, number: int) -> str:
    """The card of worker ``number``."""
    return f"{base}{number}{CARD_SUFFIX}"


def encode(card: Card) -> bytes:
    """One line of JSON, in ASCII."""
    return f'{{"card":{CARD_VERSION},{_CARD.write(card)[1:]}\n'.encode("ascii")


def decode(content: bytes) -> Card:
    """Read a card back.

    Raises FormatError for anything that is not a whole card of this version. A card that is being written looks like
    that too, so a reader that meets one reads it again.
    """
    if len(content) > MAX_CARD_BYTES:
        raise FormatError(f"the card is larger than {MAX_CARD_BYTES} bytes")
    return _CARD.read(load(content, "card", "card", CARD_VERSION), "card")

"""When dead workers were alive last, and for how long they are shown."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from wsgi_tracebacker.errors import FormatError
from wsgi_tracebacker.wire.documents import card_json

if TYPE_CHECKING:
    from wsgi_tracebacker.reader.finding.discovery import Target

#: A worker that has been dead for longer is not shown: what is left of it is of no use for what happens now.
SHOWN_SECONDS = 24 * 3600.0


def last_alive_at(target: Target) -> float | None:
    """The Unix time at which a worker is known to have lived last; None if nothing is left that says it."""
    if target.card is None:
        return None
    # Imported only here: nearly always no worker is dead.
    from wsgi_tracebacker.reader.table import Table  # noqa: PLC0415
    from wsgi_tracebacker.wire.black_box import table_header  # noqa: PLC0415

    if target.card.uid == target.card_owner:
        try:
            table = Table(target.card)
            try:
                return table_header.last_alive_at(table_header.decode_header(table.content()))
            finally:
                table.close()
        except (OSError, FormatError):
            pass
    try:
        return os.lstat(target.socket + card_json.CARD_SUFFIX).st_mtime
    except OSError:
        return None

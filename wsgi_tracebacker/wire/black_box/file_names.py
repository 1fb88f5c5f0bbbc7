"""The names of the files that outlive a worker: its table of requests in flight, its stacks, its last postmortem."""

from __future__ import annotations

import functools
import hashlib
import os

from wsgi_tracebacker.wire.black_box.table_head import SHARED_MEMORY

__all__ = ["SHARED_MEMORY"]

#: What is beside each other, by the ending of its name.
TABLE, STACKS, POSTMORTEM = "table", "stacks", "postmortem"


def file_name(base: str, number: int, uid: int, kind: str) -> str:
    """The name, in shared memory, of a file of worker ``number``: one a slot, so that a successor finds and reuses it.

    A base path would not fit into a name; 64 bits of its hash are enough for the services of one user.
    """
    return f"wsgi_tracebacker.{uid}.{_hash_of(base)}.{number}.{kind}"


@functools.lru_cache(maxsize=16)
def _hash_of(base: str) -> str:
    return hashlib.blake2b(os.fsencode(base), digest_size=8).hexdigest()


def beside_socket(base: str, number: int, kind: str) -> str:
    return f"{base}{number}.{kind}"

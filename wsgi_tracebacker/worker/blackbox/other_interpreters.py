"""Removes the files of other interpreters of this process when it ends in order.

uWSGI ends only the first interpreter: no ``atexit`` runs in those of further applications, nor anything else. mod_wsgi
calls a function in each of them, see ``at_exit``.
"""

from __future__ import annotations

import atexit
import os
import sys

from wsgi_tracebacker.linux import files, proc
from wsgi_tracebacker.wire.black_box import file_names
from wsgi_tracebacker.wire.documents import card_json
from wsgi_tracebacker.worker.blackbox import box_files
from wsgi_tracebacker.worker.listening import slot
from wsgi_tracebacker.worker.reporting import faults
from wsgi_tracebacker.worker.threads import interpreters

_bases: set[str] = set()


def clean_up_at_exit(base: str) -> None:
    """Under uWSGI, have the first interpreter remove all files at ``base`` that this process leaves, when it ends.

    A middleware calls it when it is made: its interpreter may never serve a request.
    """
    if "uwsgi" in sys.modules and base not in _bases and interpreters.is_first():
        _bases.add(base)
        atexit.register(_remove_files, base)


def _remove_files(base: str) -> None:
    try:
        for number in slot.numbers_at(base):
            card = slot.read_card(base, number)
            if card is not None and card.pid == os.getpid() and proc.runs_since("/proc/self", card.start_ticks):
                for kind in (file_names.TABLE, file_names.STACKS):
                    box_files.remove(box_files.path_of(base, number, kind))
                for path in (card_json.socket_path(base, number), card_json.card_path(base, number)):
                    files.unlink_if(path, files.inode_at(path))
    except Exception:
        faults.caught("when the files of other interpreters were removed")

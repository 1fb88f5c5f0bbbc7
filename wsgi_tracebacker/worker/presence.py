"""What others find of this worker: its number, and under it the socket, the card and the black box."""

from __future__ import annotations

import grp
import logging
from typing import TYPE_CHECKING

from wsgi_tracebacker.linux.clock import monotonic, unix_time
from wsgi_tracebacker.text.postmortem import lines as postmortem_lines
from wsgi_tracebacker.wire.documents import postmortem_json
from wsgi_tracebacker.worker import last_act, startup_warnings
from wsgi_tracebacker.worker.blackbox import predecessor
from wsgi_tracebacker.worker.blackbox.black_box import BlackBox
from wsgi_tracebacker.worker.listening import slot
from wsgi_tracebacker.worker.reporting import faults, logs, reporter
from wsgi_tracebacker.worker.tracking.describe import write_details

if TYPE_CHECKING:
    from collections.abc import Callable

    from wsgi_tracebacker.linux.descriptor import OwnDescriptor
    from wsgi_tracebacker.linux.files import Inode
    from wsgi_tracebacker.model.report import Postmortem
    from wsgi_tracebacker.worker.blackbox.own_threads import OwnThreads
    from wsgi_tracebacker.worker.blackbox.stacks_file import StacksFile
    from wsgi_tracebacker.worker.blackbox.table import Table
    from wsgi_tracebacker.worker.identity import Identity
    from wsgi_tracebacker.worker.options.settings import Settings
    from wsgi_tracebacker.worker.tracking.cores import Cores

#: How often the files of workers that died long ago are looked for.
_CLEAN_UP_SECONDS = 3600.0


class Presence:
    """Of one process. Without a number (no folder, no rights, no descriptors) there is nothing of the four."""

    def __init__(self, identity: Identity, settings: Settings, cores: Cores, own_threads: OwnThreads) -> None:
        """Nothing is opened before open()."""
        self._identity = identity
        self._settings = settings
        self._cores = cores
        self._own_threads = own_threads
        #: The group whose members may connect.
        self.group_id: int | None = None
        self._slot: slot.Slot | None = None
        self._black_box: BlackBox | None = None
        self._listener_id: int | None = None
        #: Whether the files are to be removed at the very end: none are made any more.
        self._is_closing = False
        #: Monotonic time at which old files are looked for again.
        self._clean_up_at = 0.0

    def number(self) -> int | None:
        """The worker number."""
        return self._slot.number if self._slot is not None else None

    def restarts(self) -> int | None:
        """How many workers with this number were there before it; None without a black box."""
        table = self.table()
        return table.restarts if table is not None else None

    def table(self) -> Table | None:
        """The table of requests."""
        # Read once: close() sets it to None.
        box = self._black_box
        return box.table if box is not None else None

    def stacks_file(self) -> StacksFile | None:
        """The file of the last reports."""
        box = self._black_box
        return box.stacks_file if box is not None else None

    def dump_signal(self) -> int | None:
        """The signal that this worker answers with its stacks."""
        box = self._black_box
        return box.signal_number if box is not None else None

    def open(self, preferred: int | None = None) -> OwnDescriptor | None:
        """Claim a number, ``preferred`` if it is free, and make the files; the listening socket, or None.

        What is refused is one warning.
        """
        base = self._settings.base
        if self.group_id is None:
            self.group_id = _group_id(self._settings.group)
        try:
            claimed = slot.claim(base, preferred)
            if claimed is None:
                message = "no worker number is free below %d for %s; this worker cannot be read"
                faults.warn_once("numbers", message, slot.MAX_NUMBER, base)
                return None
            # The predecessor's files are read before ours replace them.
            _log_postmortem(predecessor.make_postmortem(base, claimed.number))
            box = BlackBox(self._identity, claimed.number, self._settings.dump_signal, self._black_box)
            try:
                claimed.write_card(box.card())
                claimed.bind(self.group_id)
            except BaseException:
                box.close(remove=True)
                claimed.release()
                raise
        except OSError as error:
            message = "cannot open a socket at %s<N> (%s); the application is served without it"
            faults.warn_once("socket", message, base, error)
            return None
        self._slot = claimed
        self._record_in(box)
        # Not before: where there is no socket either, one warning is enough.
        startup_warnings.warn_of_surroundings(self._identity, claimed.number, box.refused)
        if self._settings.name_threads:
            self._cores.name_threads(claimed.number)
        return claimed.listening

    def _record_in(self, box: BlackBox) -> None:
        self._black_box = box
        if box.table is not None:
            self._cores.record_in(box.table)
            self._own_threads.write_to(box.table)
            if self._listener_id is not None:
                box.table.set_listener(self._listener_id)

    def listener_started(self, native_id: int) -> None:
        """Record which thread answers the socket."""
        self._listener_id = native_id
        table = self.table()
        if table is not None:
            table.set_listener(native_id)

    def check(self) -> OwnDescriptor | None:
        """Once a tick: if files have vanished, make them anew, under the same number if that is still free."""
        if self._is_closing:
            return self._slot.listening if self._slot is not None else None
        table = self.table()
        if table is not None:
            now = monotonic()
            table.beat(now)
            write_details(self._cores.all(), table, now)
            self._clean_up(now)
        current, box = self._slot, self._black_box
        if current is not None and current.is_intact() and (box is None or box.is_there()):
            return current.listening
        if current is None:
            return self.open()
        # Released before it is claimed again: others cannot find what is left of it, so it would keep nobody out.
        self._slot = None
        current.release()
        return self.open(current.number)

    def _clean_up(self, now: float) -> None:
        """Once in a while: remove what workers left that died more than a day ago."""
        if now >= self._clean_up_at:
            self._clean_up_at = now + _CLEAN_UP_SECONDS
            try:
                for died in predecessor.clean_up_old(self._settings.base, unix_time()):
                    _log_postmortem(died)
            except OSError:
                # Another user's rules for the folder; what is left harms nobody.
                pass

    def keep(self, text: str) -> None:
        """Add a report to the stacks file, for those who ask what this worker did when it is gone."""
        stacks_file = self.stacks_file()
        if stacks_file is not None:
            stacks_file.write(text)

    def close(self) -> None:
        """Remove the files and free the number."""
        self._close_black_box(remove=True)
        if self._slot is not None:
            self._slot.release()
            self._slot = None

    def close_at_last(self) -> None:
        """Mark the black box as closed, so that nobody reports a death, and have the files removed at the very end."""
        self._is_closing = True
        found: list[tuple[str, Inode | None]] = []
        detach: list[Callable[[], object]] = []
        if self._black_box is not None:
            self._black_box.mark_closed()
            found += self._black_box.files()
        if self._slot is not None:
            found += self._slot.files()
            if self._slot.listening is not None and self._slot.listening.socket is not None:
                detach.append(self._slot.listening.socket.detach)
        last_act.remove_at_last(((path, inode) for path, inode in found if inode is not None), detach)

    def forget(self) -> None:
        """In a forked child: close what is the parent's, and leave its files as they are."""
        self._close_black_box(remove=False)
        if self._slot is not None:
            self._slot.forget()

    def _close_black_box(self, *, remove: bool) -> None:
        if self._black_box is not None:
            self._own_threads.write_to(None)
            self._cores.leave_table()
            self._black_box.close(remove=remove)
            self._black_box = None


def _log_postmortem(died: Postmortem | None) -> None:
    if died is not None:
        text = "\n".join(postmortem_lines(died))
        content = {"kind": "postmortem", **postmortem_json.document(died)}
        entry = reporter.Entry(logs.POSTMORTEM, logging.ERROR, "postmortem: %s", text, content=content)
        reporter.current().post(entry)


def _group_id(group: str | int | None) -> int | None:
    if group is None or isinstance(group, int):
        return group
    try:
        return grp.getgrnam(group).gr_gid
    except (KeyError, OSError, ValueError):
        faults.warn_once("group", "there is no group %r on this system; only the owner can read the socket", group)
        return None

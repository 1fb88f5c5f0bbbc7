"""Owns the files that outlive this worker, and the dump signal: table of requests, last reports and stacks.

The operating system may refuse each of the three; then the worker works without it, and ``refused`` has the reason.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsgi_tracebacker.wire.black_box import file_names
from wsgi_tracebacker.worker.blackbox import box_files, predecessor
from wsgi_tracebacker.worker.blackbox.dump_signal import DumpSignal
from wsgi_tracebacker.worker.blackbox.stacks_file import StacksFile
from wsgi_tracebacker.worker.blackbox.table import Table

if TYPE_CHECKING:
    from wsgi_tracebacker.linux.files import Inode
    from wsgi_tracebacker.model.card import Card
    from wsgi_tracebacker.worker.identity import Identity


class BlackBox:
    """The black box of one worker number."""

    def __init__(
        self, identity: Identity, number: int, dump_signal: int | None, vanished: BlackBox | None = None
    ) -> None:
        """Make its files. ``vanished``: the former black box of this worker, whose files were deleted."""
        self._identity = identity
        self._number = number
        #: What the operating system refused, as arguments for warn_once().
        self.refused: list[tuple[str, str, object]] = []
        self.table: Table | None = None
        self._dump_signal: DumpSignal | None = None
        old_table = vanished.table if vanished is not None else None
        if vanished is not None:
            vanished.close(remove=True)
        # Also if we never write one of our own: a predecessor's reports must not be read with our table.
        stacks_path = box_files.path_of(identity.base, number, file_names.STACKS)
        box_files.remove(stacks_path)
        self.stacks_file = StacksFile(stacks_path)
        self._make_table(old_table)
        if dump_signal is not None:
            self._register_signal(dump_signal)

    def _make_table(self, old: Table | None) -> None:
        header = self._identity.header(self._number, predecessor.counted(self._identity.base, self._number))
        try:
            self.table = Table(box_files.path_of(self._identity.base, self._number, file_names.TABLE), header)
        except (OSError, ValueError) as error:
            refusal = "no black box (%s); after a crash nobody will know what was served"
            self.refused.append(("black box", refusal, error))
        else:
            if old is not None:
                self.table.go_on_from(old)

    def _register_signal(self, number: int) -> None:
        dump_signal = DumpSignal(number)
        if dump_signal.register(self.stacks_file):
            self._dump_signal = dump_signal
        else:
            refusal = "signal %d is in use, or its file cannot be had; a stalled worker will show no stacks"
            self.refused.append(("signal", refusal, number))

    @property
    def signal_number(self) -> int | None:
        """The signal that this worker answers with its stacks."""
        return self._dump_signal.number if self._dump_signal is not None else None

    def is_there(self) -> bool:
        """Whether readers still find its table, if there is one."""
        return self.table is None or self.table.is_there()

    def card(self) -> Card:
        """The card of the worker, which tells readers where its black box is."""
        return self._identity.card(
            self._number,
            black_box=self.table.path if self.table is not None else None,
            stacks=self.stacks_file.path,
            dump_signal=self.signal_number,
        )

    def files(self) -> list[tuple[str, Inode | None]]:
        """The paths of the files, each with its inode; None for one that is not there."""
        table = [(self.table.path, self.table.inode)] if self.table is not None else []
        return [*table, (self.stacks_file.path, self.stacks_file.inode)]

    def mark_closed(self) -> None:
        """The worker ends in order."""
        if self.table is not None:
            self.table.mark_closed()

    def close(self, *, remove: bool) -> None:
        """Unregister the signal and close the files; ``remove`` them when the worker ends in order."""
        if self._dump_signal is not None:
            self._dump_signal.unregister()
            self._dump_signal = None
        if self.table is not None:
            self.table.close(remove=remove)
            self.table = None
        self.stacks_file.close(remove=remove)

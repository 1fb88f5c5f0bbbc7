"""A real terminal for a command: tmux, which draws the screen as a terminal does, and types keys."""

from __future__ import annotations

import os
import secrets
import shlex
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.programs import require_program
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from typing_extensions import Self


class Terminal:
    """One command in a shell in a terminal of this size. A context manager: leaving it ends the terminal."""

    def __init__(
        self, command: Sequence[str], columns: int, lines: int, cwd: Path, env: Mapping[str, str] | None = None
    ) -> None:
        # A server of its own, which reads nobody's configuration. It leaves its socket behind.
        self._socket = Path(f"/tmp/wsgi-tb-{secrets.token_hex(8)}")
        self._tmux = (require_program("tmux"), "-S", str(self._socket), "-f", os.devnull)
        size = ("-x", str(columns), "-y", str(lines))
        # The variables would have the size that this terminal no longer has when it is resized.
        shell = "env -u COLUMNS -u LINES PS1='$ ' bash --norc -i"
        self._ask("new-session", "-d", *size, "-c", str(cwd), shell)
        wait_until(lambda: self.text().endswith("$"), "the shell is ready")
        for name, value in (env or {}).items():
            self.type(f"export {name}={shlex.quote(value)}", "Enter")
        self.type(shlex.join(command), "Enter")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ask("kill-server")
        self._socket.unlink(missing_ok=True)

    def text(self) -> str:
        """What is on the screen, without the blanks at the ends."""
        return "\n".join(self.lines()).rstrip()

    def lines(self) -> list[str]:
        return [line.rstrip() for line in self._ask("capture-pane", "-p").splitlines()]

    def type(self, *keys: str) -> None:
        """Keys by the names of tmux, or text."""
        # All at once, faster than any program handles one of them.
        self._ask("send-keys", *keys)

    def click(self, column: int, line: int) -> None:
        """The left button of the mouse, pressed and released, as a terminal reports it (SGR 1006); both from 0."""
        for end in "Mm":
            self._ask("send-keys", "-l", f"\x1b[<0;{column + 1};{line + 1}{end}")

    def resize(self, columns: int, lines: int) -> None:
        self._ask("resize-window", "-x", str(columns), "-y", str(lines))

    def wait_for(self, text: str) -> None:
        wait_until(lambda: text in self.text(), lambda: f"the screen shows {text!r}; it is:\n{self.text()}")

    def wait_until_gone(self, text: str) -> None:
        wait_until(lambda: text not in self.text(), lambda: f"{text!r} is gone; the screen is:\n{self.text()}")

    def _ask(self, *arguments: str) -> str:
        return subprocess.run((*self._tmux, *arguments), capture_output=True, text=True, check=True, timeout=30).stdout

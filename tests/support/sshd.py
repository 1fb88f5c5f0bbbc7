"""A real sshd on loopback, at which many names lead."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.programs import require_file, require_program
from tests.support.servers import Server

if TYPE_CHECKING:
    from collections.abc import Iterator

#: sshd has to be started by its whole path, and root's needs this folder.
_SSHD = Path("/usr/sbin/sshd")
_PRIVILEGE_SEPARATION = Path("/run/sshd")


@contextlib.contextmanager
def sshd(folder: Path, port: int) -> Iterator[str]:
    """The words that lead to any host whose name begins with ``web``: ``ssh -F FILE {}``."""
    require_program("ssh")
    program = require_file(_SSHD)
    for key in ("host", "client"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key)], check=True)
    (folder / "sshd_config").write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/client.pub\n"
        f"PidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\n"
        "MaxStartups 100\nPrintMotd no\n"
    )
    (folder / "ssh_config").write_text(
        f"Host web*\n  HostName 127.0.0.1\n  Port {port}\n  IdentityFile {folder}/client\n  IdentitiesOnly yes\n"
        f"  UserKnownHostsFile {folder}/known\n  StrictHostKeyChecking no\n  LogLevel ERROR\n  BatchMode yes\n"
    )
    with contextlib.ExitStack() as undo:
        if os.geteuid() == 0 and not _PRIVILEGE_SEPARATION.exists():
            _PRIVILEGE_SEPARATION.mkdir(mode=0o755)
            undo.callback(_PRIVILEGE_SEPARATION.rmdir)
        server = Server([str(program), "-D", "-e", "-f", str(folder / "sshd_config")], folder / "sshd.log")
        undo.enter_context(server)
        server.wait_for_log("Server listening")
        yield f"ssh -F {folder}/ssh_config {{}}"

"""``python try_wheel.py WHEEL``: what somebody gets who installs nothing but the wheel, on this interpreter.

It is installed into an empty environment; the command says its version, and its demonstration, which wraps, serves and
reads an application, names its deadlock. Standard library only: it runs where nothing else is.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path


def main(wheel: str) -> None:
    # Of another folder the package is installed, not the one that lies here.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "WSGI_TB_"))}
    with tempfile.TemporaryDirectory(prefix="wsgi-tb-wheel-", dir="/tmp") as folder:
        binaries = Path(folder) / "venv" / "bin"

        def said(*command: str) -> str:
            done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
            return done.stdout

        said(sys.executable, "-m", "venv", str(binaries.parent))
        pip = (str(binaries / "python"), "-m", "pip", "--disable-pip-version-check")

        def installed() -> set[str]:
            listed = json.loads(said(*pip, "list", "--format", "json"))
            return {package["name"].replace("_", "-") for package in listed}

        # pip, up to CPython 3.11 setuptools, and what PyPy comes with.
        brought_along = installed()
        said(*pip, "install", "--quiet", wheel)
        assert installed() - brought_along == {"click", "wsgi-tracebacker"}, installed()
        version = said(str(binaries / "wsgi-tb"), "--version").split()
        assert version == ["wsgi-tb", Path(wheel).name.split("-")[1]], version
        shown = said(str(binaries / "wsgi-tb"), "demo")
        # Who has a lock is not known on PyPy.
        assert ("deadlock: " if sys.implementation.name == "cpython" else "GET /buy") in shown, shown
        said(*pip, "uninstall", "--quiet", "--yes", "wsgi-tracebacker")


if __name__ == "__main__":
    main(sys.argv[1])

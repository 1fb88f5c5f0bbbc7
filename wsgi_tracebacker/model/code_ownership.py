"""Whose code a source file is, by its path alone: the application's, this package's, Python's, or a library's.

The one rule of it, for reports in the worker and for whoever reads a snapshot, also of a container whose files cannot
be seen. What is installed is known by the names of folders. So an editable install is the application's own, and a
package that was installed with pip is not, unless it is the one that the worker names as its application.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from wsgi_tracebacker.model.snapshot import Frame, Snapshot

#: Folders of installed packages, by pip, Debian, PDM, zipapps (pex keeps each wheel in a folder of its name) and eggs.
_INSTALLED = re.compile(r"(?:^|/)(?:(?:site|dist)-packages|__pypackages__/[^/]+/lib|[^/]+\.(?:whl|egg))/")

#: The standard library, as installers lay it out: .../lib/python3.12/, lib64, PyPy's, and the zip of an embedded one.
_STANDARD = re.compile(r"(?:^|/)(?:lib(?:64)?/(?:python|pypy)3(?:\.\d+)?t?|python3\d+\.zip)/")

#: What this package consists of. The folder's name is not enough: a clone has it too, with an application inside.
_PACKAGE = re.compile(
    r"(?:^|/)wsgi_tracebacker/(?:"
    r"(?:__init__|__main__|_version|bodies|errors|middleware)\.py$"
    r"|(?:analysis|cli|demo|linux|model|reader|servers|text|top|web|wire|worker)/)"
)

#: A script that pip makes for a command: /srv/venv/bin/gunicorn.
_SCRIPT = re.compile(r"(?:^|/)bin/([^/.]+)$")

#: A zip that Python imports from. Its content lies at its top, the application's packages beside its libraries.
_ARCHIVE = re.compile(r"\.(?:pyz|pex|zip)/")

#: Frameworks whose own objects are the WSGI callable, which then has their name and not the application's.
_FRAMEWORKS = frozenset(
    (
        *("a2wsgi", "asgiref", "bottle", "cherrypy", "dash", "django", "falcon", "flask", "functools"),
        *("opentelemetry", "paste", "pyramid", "sentry_sdk", "werkzeug", "whitenoise"),
    )
)

#: The files of one application are far fewer; only hostile input reaches this.
_MAX_CACHED = 4096

#: Every thread that Python started has one of these, outermost, in the module threading.
_THREAD_STARTS = ("Thread._bootstrap", "_bootstrap")

#: The names for what is no library.
PYTHON = "Python"
THIS_PACKAGE = "wsgi_tracebacker"


class CodeOwnership:
    """Tells the application's own source files from others, for one worker. May be used by several threads."""

    __slots__ = ("_libraries", "_package", "_standard_folder")

    def __init__(self, application: str | None = None, standard_folder: str | None = None) -> None:
        """What is known of the worker.

        :param application: its name, as ``shop.wsgi:app``: an installed package ``shop`` is the application's own then.
        :param standard_folder: where the standard library is, if known; it may be at an unusual place.
        """
        package = (application or "").partition(":")[0].partition(".")[0]
        self._package = "" if package in _FRAMEWORKS else package
        # Not made absolute: the interpreter names the files of code objects in the same way.
        self._standard_folder = f"{standard_folder.rstrip('/')}/" if standard_folder else ""
        self._libraries: dict[str, str | None] = {}

    @classmethod
    def of_snapshot(cls, snapshot: Snapshot) -> CodeOwnership:
        """What a snapshot says of its worker: its application, and where the standard library's threading is."""
        outermost = (frame for stack in snapshot.stacks for frame in stack.frames[:3])
        return cls.of_frames(snapshot.worker.application, outermost)

    @classmethod
    def of_frames(cls, application: str | None, frames: Iterable[Frame]) -> CodeOwnership:
        """What the frames of some stacks say of their worker: where the standard library's threading is."""
        starts = (frame.filename for frame in frames if frame.function in _THREAD_STARTS)
        found = next((filename for filename in starts if filename.endswith("/threading.py")), "")
        return cls(application, found.removesuffix("/threading.py") or None)

    def is_own(self, filename: str) -> bool:
        """Whether a source file is the application's own."""
        return self.library(filename) is None

    def is_installed(self, filename: str) -> bool:
        """Whether a source file is of an installed library; this package does not count."""
        return self.library(filename) not in (None, PYTHON, THIS_PACKAGE)

    def library(self, filename: str) -> str | None:
        """The name of the library that a source file is of; PYTHON, THIS_PACKAGE; None for the application's own."""
        known = self._libraries
        if filename in known:
            return known[filename]
        found = self._library(filename)
        if len(known) >= _MAX_CACHED:
            known.clear()
        known[filename] = found
        return found

    def innermost(self, filenames: Iterable[str]) -> int | None:
        """Which call of a stack, given by its files from the innermost on, is the application's: the innermost own one.

        Where there is none, the application was installed: the innermost installed code that the middleware calls.
        None if there is no such code either.
        """
        files = list(filenames)
        found = next((index for index, filename in enumerate(files) if self.is_own(filename)), None)
        if found is not None:
            return found
        for index, filename in enumerate(files):
            if is_this_package(filename):
                break
            if self.is_installed(filename):
                return index
        return None

    def short_path(self, filename: str, cwd: str | None = None) -> str:
        """The path as people name it: below the folder of packages, of Python, or the one where the worker runs."""
        for folder in (_INSTALLED, _STANDARD):
            found = list(folder.finditer(filename))
            if found:
                return filename[found[-1].end() :]
        for begins in (self._standard_folder, f"{cwd.rstrip('/')}/" if cwd else ""):
            if begins and filename.startswith(begins):
                return filename[len(begins) :]
        return filename

    def _library(self, filename: str) -> str | None:
        # What the interpreter calls frozen modules and code without a file.
        if filename.startswith("<"):
            return PYTHON
        if _PACKAGE.search(filename):
            return THIS_PACKAGE
        # The last of them: a virtual environment may be within another's folder.
        installed = list(_INSTALLED.finditer(filename))
        if installed:
            name = _top_name(filename[installed[-1].end() :])
            return None if name == self._package else name
        if _STANDARD.search(filename) or (self._standard_folder and filename.startswith(self._standard_folder)):
            return PYTHON
        if script := _SCRIPT.search(filename):
            return script[1]
        archive = _ARCHIVE.search(filename)
        if archive is not None and self._package:
            name = _top_name(filename[archive.end() :])
            return None if name in (self._package, "__main__") else name
        return None


def is_this_package(filename: str) -> bool:
    """Whether a source file is one of ours."""
    return _PACKAGE.search(filename) is not None


def _top_name(path: str) -> str:
    """The package, or the module, that a path within a folder of packages begins with."""
    return path.partition("/")[0].removesuffix(".py")

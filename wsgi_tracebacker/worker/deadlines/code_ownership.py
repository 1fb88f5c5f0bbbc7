"""Whose code a source file is, by its path: the application's, this package's, or a library's."""

from __future__ import annotations

import os

import wsgi_tracebacker

# Folders end with a slash. They are not made absolute: the interpreter names the files of code objects in the same way,
# and with a package that was found by a relative path nothing would match.
_PACKAGE_FOLDER = os.path.join(os.path.dirname(wsgi_tracebacker.__file__), "")
#: Not from sysconfig: it imports a module at its first call, which a worker that has changed its user may not be able
#: to read.
_STANDARD_FOLDER = os.path.join(os.path.dirname(os.__file__), "")
#: What pip and Debian call the folder of installed packages. They may be within the standard library's.
_INSTALLED_FOLDERS = ("/site-packages/", "/dist-packages/")

#: What the interpreter calls frozen modules and code without a file begins with ``<``.
_NOT_OWN = ("<", _PACKAGE_FOLDER, _STANDARD_FOLDER)


def is_this_package(filename: str) -> bool:
    """Whether a source file is one of ours."""
    return filename.startswith(_PACKAGE_FOLDER)


def is_installed(filename: str) -> bool:
    """Whether a source file was installed like a library; this package does not count."""
    return any(folder in filename for folder in _INSTALLED_FOLDERS) and not is_this_package(filename)


def is_own(filename: str) -> bool:
    """Whether a source file is the application's own, and not installed."""
    return not filename.startswith(_NOT_OWN) and not is_installed(filename)

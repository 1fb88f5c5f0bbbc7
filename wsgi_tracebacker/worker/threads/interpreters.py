"""Tells whether uWSGI has several interpreters in this process, so that an id does not tell threads apart.

uWSGI gives every mounted application but the first an interpreter of its own. With ``--threads`` all threads of such an
interpreter have one id, that of the thread which loaded it, whatever ``get_ident()`` returns in them. So
``sys._current_frames()`` has only one of their stacks, perhaps under the id of a thread of the first interpreter, and
an exception that is raised into an id reaches any of them. mod_wsgi gives each thread its own id in each interpreter.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any


def is_first() -> bool:
    """Whether this is the first interpreter of its process; True where that is not known."""
    module = _module()
    return module is None or bool(module.get_current() == module.get_main())


def ids_are_shared() -> bool:
    """Whether threads of this process may have the id of another one."""
    if getattr(sys.modules.get("uwsgi"), "cores", 1) < 2:
        return False
    module = _module()
    return module is not None and len(module.list_all()) > 1


def own_id_is_shared() -> bool:
    """Whether the threads that serve in this interpreter have one id."""
    return ids_are_shared() and not is_first()


def _module() -> Any:
    # Its name from 3.13 on, and before.
    for name in ("_interpreters", "_xxsubinterpreters"):
        try:
            return importlib.import_module(name)
        except ImportError:
            pass
    return None

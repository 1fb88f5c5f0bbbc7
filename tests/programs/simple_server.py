"""Servers that are started by a program: ``simple_server.py KIND [MODULE]``.

Kinds are wsgiref, werkzeug, werkzeug-processes, gevent and waitress.
The application is ``application`` of the module, the wrapped example if none is named. Listens on a port of its choice
and prints it. SIGINT ends it in order, so that atexit runs; SIGTERM ends it at once.
"""

from __future__ import annotations

import contextlib
import importlib
import signal
import sys
from typing import TYPE_CHECKING
from wsgiref.simple_server import make_server

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication


def main() -> None:
    # Set here because it is ignored in what a shell started in the background, and that is inherited.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    kind, *module = sys.argv[1:]
    if kind == "gevent":
        from gevent import monkey

        # Before the application is imported, as gevent asks.
        monkey.patch_all()
    application: WSGIApplication = importlib.import_module(module[0] if module else "example_app.wsgi").application
    if kind == "gevent":
        from gevent.pywsgi import WSGIServer

        pywsgi = WSGIServer(("127.0.0.1", 0), application)
        pywsgi.start()
        sys.stdout.write(f"listens on {pywsgi.server_port}\n")
        with contextlib.suppress(KeyboardInterrupt):
            pywsgi.serve_forever()
    elif kind == "waitress":
        from waitress.server import create_server

        waitress = create_server(application, listen="127.0.0.1:0")
        sys.stdout.write(f"listens on {waitress.effective_port}\n")
        waitress.run()
    elif kind.startswith("werkzeug"):
        from werkzeug.serving import make_server as make_werkzeug_server

        processes = 3 if kind == "werkzeug-processes" else 1
        werkzeug = make_werkzeug_server("127.0.0.1", 0, application, threaded=processes == 1, processes=processes)
        sys.stdout.write(f"listens on {werkzeug.server_port}\n")
        werkzeug.serve_forever()
    else:
        with make_server("127.0.0.1", 0, application) as server, contextlib.suppress(KeyboardInterrupt):
            sys.stdout.write(f"listens on {server.server_port}\n")
            server.serve_forever()


if __name__ == "__main__":
    main()

"""The wrapped example in the standard library's server or werkzeug's: ``simple_server.py wsgiref|werkzeug``.

Listens on a port of its choice and prints it. SIGINT ends it in order, so that atexit runs; SIGTERM ends it at once.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from wsgiref.simple_server import make_server

from werkzeug.serving import make_server as make_werkzeug_server

from example_app.wsgi import application


def main() -> None:
    # Set here because it is ignored in what a shell started in the background, and that is inherited.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if sys.argv[1] == "werkzeug":
        werkzeug = make_werkzeug_server("127.0.0.1", 0, application, threaded=True)
        sys.stdout.write(f"listens on {werkzeug.server_port}\n")
        werkzeug.serve_forever()
    else:
        with make_server("127.0.0.1", 0, application) as server, contextlib.suppress(KeyboardInterrupt):
            sys.stdout.write(f"listens on {server.server_port}\n")
            server.serve_forever()


if __name__ == "__main__":
    main()

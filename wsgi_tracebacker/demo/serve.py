"""Serve the shop by the standard library's server, where gunicorn is not installed.

Prints its port. One process is one worker.
"""

from __future__ import annotations

import sys
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *_: object) -> None:  # noqa: A002  (that is its name)
        """Requests are not logged."""


def main() -> None:
    """Serve what WSGI_TB_APP names."""
    from wsgi_tracebacker.servers.auto import application  # noqa: PLC0415  (it is made when it is imported)

    with make_server("127.0.0.1", 0, application, _Server, _Handler) as server:
        sys.stdout.write(f"Listening at: http://127.0.0.1:{server.server_port}\n")
        sys.stdout.flush()
        server.serve_forever()


if __name__ == "__main__":
    main()

"""The page of ``wsgi-tb web`` on a made-up shop: a pool is exhausted, there is a deadlock, a worker hangs."""

from __future__ import annotations

import itertools
import sys

from tests.support.planted import Planted
from wsgi_tracebacker.reader.survey import Survey
from wsgi_tracebacker.top.readings import Taken
from wsgi_tracebacker.web import server
from wsgi_tracebacker.web.live import Live
from wsgi_tracebacker.web.site import Site


def main() -> None:
    site = Site()
    seconds = itertools.count()
    site.live = Live(lambda: Taken(Planted(float(next(seconds))).reading(), Survey((), ())))
    with server.bind("127.0.0.1", 0) as bound, server.server(bound, site) as serving:
        bound.listen()
        sys.stdout.write(f"http://127.0.0.1:{bound.getsockname()[1]}/\n")
        sys.stdout.flush()
        serving.serve_forever()


if __name__ == "__main__":
    main()

"""A request as a server makes it: an environ with as many keys as gunicorn's."""

from __future__ import annotations

import io
import sys
from typing import Any


def make() -> dict[str, Any]:
    return {
        "wsgi.errors": sys.stderr,
        "wsgi.version": (1, 0),
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        "wsgi.input": io.BytesIO(),
        "wsgi.input_terminated": True,
        "wsgi.url_scheme": "http",
        "SERVER_SOFTWARE": "gunicorn/27.0.1",
        "REQUEST_METHOD": "GET",
        "QUERY_STRING": "page=2&sort=name",
        "RAW_URI": "/shop/articles/?page=2&sort=name",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_HOST": "www.example.com",
        "HTTP_USER_AGENT": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
        "HTTP_ACCEPT": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
        "HTTP_ACCEPT_LANGUAGE": "en",
        "HTTP_ACCEPT_ENCODING": "gzip, deflate, br",
        "HTTP_COOKIE": "session=0123456789abcdef",
        "HTTP_X_REQUEST_ID": "6f0d1c2b-5d7c-4b0e-9a51-0a7f4f1f2a3b",
        "REMOTE_ADDR": "192.0.2.7",
        "REMOTE_PORT": "51234",
        "SERVER_NAME": "www.example.com",
        "SERVER_PORT": "80",
        "PATH_INFO": "/shop/articles/",
        "SCRIPT_NAME": "",
    }

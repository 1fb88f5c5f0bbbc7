"""Who may ask: by the Host that is named, by where the question comes from, by the user, and by a token.

Every user of the machine can connect to a loopback port, so without a token the user has to be ours, or root.

Any page in the operator's browser can send questions to a loopback port, and a name of its own may lead there (DNS
rebinding). So the Host has to be the one that was listened on, and only this page may send a form.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from typing import TYPE_CHECKING, NamedTuple

from wsgi_tracebacker.linux.net.tcp_peers import uid_of_peer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from werkzeug.wrappers import Request

COOKIE = "wsgi_tb"

#: A guess at a token of so many letters and digits is hopeless.
LEAST_TOKEN_CHARACTERS = 16

#: Nothing is loaded from elsewhere, no script or style stands in the page, and no other page has it in a frame.
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:;"
        " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    # To no other site. With "no-referrer" browsers keep silent about a form's origin, and the login would be refused.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Guard(NamedTuple):
    """What is asked for before anything is answered. By default nothing: somebody else has done that."""

    #: The values of the header Host that are right; None: any.
    hosts: frozenset[str] | None = None
    token: str | None = None
    #: Whose programs on this machine may ask; None: everybody's. It is for a loopback address without a token.
    users: frozenset[int] | None = None

    def is_of_user(self, request: Request) -> bool:
        """Whether the other end of the connection belongs to one of the users. Who cannot be told is refused."""
        if self.users is None:
            return True
        connection = request.environ.get("werkzeug.socket")
        return connection is not None and uid_of_peer(connection) in self.users

    def names_us(self, request: Request) -> bool:
        """Whether the Host is ours."""
        return self.hosts is None or request.headers.get("Host", "").lower() in self.hosts

    def may_read(self, request: Request) -> bool:
        """Whether it has the token, in its header or in the cookie of a login."""
        if self.token is None:
            return True
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return self.is_token(given.strip())
        return hmac.compare_digest(request.cookies.get(COOKIE, "").encode(), self.cookie().encode())

    def is_token(self, given: str) -> bool:
        return self.token is not None and hmac.compare_digest(given.encode(), self.token.encode())

    def cookie(self) -> str:
        """What the cookie of a login has: made of the token, which cannot be had from it."""
        assert self.token is not None
        return hmac.new(self.token.encode(), b"wsgi-tb web", hashlib.sha256).hexdigest()


def is_from_our_page(request: Request) -> bool:
    """Whether a form was sent by this page. Browsers say where it was; other clients say nothing, and are refused."""
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site == "same-origin"
    return request.headers.get("Origin") == request.host_url.rstrip("/")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address. A name is one only if it is ``localhost``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def hosts_of(host: str, port: int) -> frozenset[str]:
    """The right values of Host for a loopback address and port."""
    shown = f"[{host}]" if ":" in host else host
    return frozenset(f"{name}:{port}" for name in (shown.lower(), "localhost", "127.0.0.1", "[::1]"))

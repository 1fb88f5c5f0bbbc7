"""The client of a request: has it gone, and does it read what is sent to it?

Servers put the connection into the environ, each in its own way. Only the kernel is asked about it. Where the server is
behind a proxy, the client in this sense is the proxy.
"""

from __future__ import annotations

import sys
from types import MethodType
from typing import TYPE_CHECKING, Any

from wsgi_tracebacker.linux.net.tcp_state import TcpState, states_by_own_port, tcp_state
from wsgi_tracebacker.model.waits import WaitsFor
from wsgi_tracebacker.worker.tracking.core import value_in

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import CodeType

_CONNECTION_KEYS = ("gunicorn.socket", "werkzeug.socket")
_WAITRESS_KEY = "waitress.client_disconnected"
_UWSGI_KEY = "uwsgi.version"
#: In the environ if a worker has more than one core.
_UWSGI_CORE_KEY = "uwsgi.core"
#: By the end of the file's name and the function: the servers' own functions that send to the client.
_SENDERS = (
    ("gunicorn/util.py", "write"),
    ("gunicorn/util.py", "write_chunk"),
    ("werkzeug/serving.py", "write"),
    ("waitress/channel.py", "_flush_outbufs_below_high_watermark"),
)
#: They call so many functions, at most: those of TLS, of gevent and of a Condition.
_MAX_DEPTH = 10
#: What is said instead of these, if the client has gone: nobody else has what the request waits for.
_SAID_INSTEAD = ("sleep", "send")


class Clients:
    """Looks at the clients of requests; for one look at several requests, because it remembers answers."""

    def __init__(self) -> None:
        self._by_port: dict[str, list[TcpState]] | None = None

    def state(self, environ: object) -> TcpState | None:
        """The state of the connection to the client.

        None where the server does not say which one it is, or it is no TCP connection.
        """
        for key in _CONNECTION_KEYS:
            connection = value_in(environ, key)
            if connection is not None:
                return tcp_state(_within_gevent(connection))
        if value_in(environ, _UWSGI_KEY) is not None:
            return self._of_uwsgi(environ)
        return _of_waitress(value_in(environ, _WAITRESS_KEY))

    def _of_uwsgi(self, environ: object) -> TcpState | None:
        """The state of the connection to the server's port, of which a worker of uWSGI with one core has only one.

        ``uwsgi.connection_fd()`` would say which one it is, but only on the request's own thread.
        """
        host, port = value_in(environ, "REMOTE_ADDR"), value_in(environ, "SERVER_PORT")
        if value_in(environ, _UWSGI_CORE_KEY) is not None or type(host) is not str or type(port) is not str:
            return None
        if self._by_port is None:
            self._by_port = states_by_own_port()
        found = self._by_port.get(port, [])
        # Behind a proxy that speaks uWSGI's protocol, both are the proxy's.
        return found[0] if len(found) == 1 and _host(found[0]) == host else None

    def added(
        self,
        waits: WaitsFor | None,
        environ: object,
        stack: Sequence[tuple[CodeType, int]],
        remote_address: str | None,
    ) -> WaitsFor | None:
        """What a request waits for, with what is known of its client.

        :param waits: what it waits for as far as that was found without its client.
        :param stack: of its thread or greenlet, innermost frame first.
        :param remote_address: the client's address if it is known better than from the connection.
        """
        state = self.state(environ)
        if state is None:
            return waits
        address = remote_address or _host(state)
        if state.is_closed_by_peer:
            if waits is not None and waits.kind not in _SAID_INSTEAD:
                # The client may have gone because of that.
                return waits._replace(client_gone=True)
            return WaitsFor("client_gone", peer=address, client_gone=True, called_at=waits.called_at if waits else None)
        sends = waits is not None and waits.kind == "send" and waits.peer == state.peer
        if state.unsent_bytes and (sends or _is_sending(stack)):
            return WaitsFor("client_slow", peer=address)
        return waits


def _host(state: TcpState) -> str | None:
    return state.peer.rpartition(":")[0].strip("[]") if state.peer is not None else None


def _is_sending(stack: Sequence[tuple[CodeType, int]]) -> bool:
    return any(
        code.co_name == function and code.co_filename.endswith(file)
        for code, _ in stack[:_MAX_DEPTH]
        for file, function in _SENDERS
    )


def _within_gevent(connection: Any) -> Any:
    """The socket of the C class that a socket of gevent has within."""
    module = sys.modules.get("gevent._socket3")
    is_of_gevent = module is not None and type(connection) is module.socket
    return connection._sock if is_of_gevent else connection  # noqa: SLF001  (gevent names no other way to it)


def _of_waitress(method: object) -> TcpState | None:
    """The state of a connection of waitress, by the method with which applications ask whether it is closed."""
    module = sys.modules.get("waitress.channel")
    if module is None or type(method) is not MethodType or type(method.__self__) is not module.HTTPChannel:
        return None
    channel = vars(method.__self__)
    if channel.get("connected") is False:
        # It has seen the end of it and closed its own end.
        return TcpState(None, is_closed_by_peer=True, unsent_bytes=0)
    return tcp_state(channel.get("socket"))

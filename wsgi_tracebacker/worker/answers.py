"""What the socket of a worker answers to each path."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsgi_tracebacker.linux.clock import monotonic
from wsgi_tracebacker.linux.net.listen_sockets import ListenSockets
from wsgi_tracebacker.model.snapshot import Counters, Worker
from wsgi_tracebacker.wire import http10
from wsgi_tracebacker.wire.documents import snapshot_json
from wsgi_tracebacker.worker import server_slots
from wsgi_tracebacker.worker.identity import working_directory
from wsgi_tracebacker.worker.reporting import faults

if TYPE_CHECKING:
    from collections.abc import Callable

    from wsgi_tracebacker.worker.identity import Identity
    from wsgi_tracebacker.worker.listening.listener import Listener
    from wsgi_tracebacker.worker.stacks.snapshot import Snapshots
    from wsgi_tracebacker.worker.tracking.cores import Cores


class Answers:
    """The answers of one process."""

    def __init__(
        self,
        *,
        identity: Identity,
        cores: Cores,
        snapshots: Snapshots,
        worker_number: Callable[[], int | None],
        restarts: Callable[[], int | None],
        listener: Callable[[], Listener | None],
    ) -> None:
        """``worker_number``, ``restarts`` and ``listener``: as they are when somebody asks."""
        self._identity = identity
        self._cores = cores
        self._snapshots = snapshots
        self._worker_number = worker_number
        self._restarts = restarts
        self._listen_sockets = ListenSockets(identity.is_own_socket)
        self._listener = listener
        #: From the server's configuration, for as long as no request has shown more.
        self.configured_slots: int | None = None

    def response(self, path: str) -> bytes | None:
        """The response to ``GET path``; None for an unknown path. Runs on the listener's thread."""
        try:
            if path in ("/", "/snapshot.txt"):
                return http10.response(200, http10.TEXT, self._snapshots.text())
            if path == "/snapshot":
                return http10.response(200, http10.JSON, self.snapshot_json())
            if path == "/worker":
                return http10.response(200, http10.JSON, snapshot_json.worker_bytes(self._worker(), self._counters()))
        except Exception:
            faults.caught("while a snapshot was taken")
            return http10.response(500, http10.TEXT, b"a fault of wsgi_tracebacker: see the worker's log\n")
        return None

    def snapshot_json(self) -> bytes:
        """All stacks with their requests, as JSON."""
        return self._snapshots.json(self._worker())

    def _worker(self) -> Worker:
        cores = self._cores.all()
        started = [token for core in cores if (token := core.started) > 0.0]
        server = server_slots.read(cores)
        worker = self._identity.worker(
            self._worker_number(),
            cwd=working_directory(),
            requests_finished=self._cores.finished(),
            requests_in_flight=len(started),
            oldest_request_seconds=max(0.0, monotonic() - min(started)) if started else None,
        )
        return worker._replace(
            slots=self.configured_slots if server.slots is None else server.slots,
            busy=max(server.busy or 0, len(started)),
            inner_queue=server.inner_queue,
            restarts=self._restarts(),
            listen=self._listen_sockets.all(server.descriptors),
        )

    def _counters(self) -> Counters:
        listener = self._listener()
        return Counters(
            snapshots=self._snapshots.taken,
            clients_accepted=listener.accepted if listener is not None else 0,
            clients_refused=listener.refused if listener is not None else 0,
            clients_dropped=listener.dropped if listener is not None else 0,
            faults=faults.count(),
        )

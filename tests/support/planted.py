"""A made-up shop: an exhausted pool, a deadlock, a client that reads slowly, and a worker that does not answer.

It looks the same each time, however busy the machine is.
"""

from __future__ import annotations

from wsgi_tracebacker.analysis.live import Reading, WorkerReading
from wsgi_tracebacker.model.snapshot import Frame, ListenSocket, Request, Snapshot, Stack, Worker
from wsgi_tracebacker.model.waits import Holder, WaitsFor
from wsgi_tracebacker.text.waits import with_sentence

#: Unix seconds.
_NOW = 1_700_000_000.0

_PACKAGES = "/srv/shop/.venv/lib/python3.13/site-packages"
_SERVER = (
    Frame("/usr/lib/python3.13/threading.py", 1014, "Thread._bootstrap", "self._bootstrap_inner()"),
    Frame(f"{_PACKAGES}/gunicorn/workers/gthread.py", 282, "ThreadWorker.handle", "keepalive = self.run(request)"),
    Frame(f"{_PACKAGES}/flask/app.py", 1536, "Flask.__call__", "return self.wsgi_app(environ, start_response)"),
    Frame("/srv/shop/shop/views.py", 41, "checkout", "order = load_order(order_id)", 41, 8, 28),
)
_POOL = Frame("/srv/shop/shop/orders.py", 71, "load_order", "with engine.connect() as connection:", 71, 5, 21)
_BUY = Frame("/srv/shop/shop/cart.py", 79, "buy", "with stock_lock:", 79, 5, 15)
_REFUND = Frame("/srv/shop/shop/cart.py", 87, "refund", "with ledger_lock:", 87, 5, 16)
_PAY = Frame("/srv/shop/shop/pay.py", 53, "charge", "reply = requests.post(BANK_URL, json=order)", 53, 8, 42)
_EXPORT = Frame("/srv/shop/shop/export.py", 31, "rows", "yield from session.execute(EVERYTHING)", 31, 11, 38)

_WAITS_FOR_POOL = WaitsFor("pool", pool="QueuePool", pool_size=15, pool_in_use=15)
_WAITS_FOR_BANK = WaitsFor("http", method="POST", url="https://bank.example/v2/charge", connecting=False)
_WAITS_FOR_ROWS = WaitsFor("database", service="postgresql", peer="10.0.0.5:5432", statement="SELECT * FROM orders")


def _deadlock(path: str, core: int, lock: str, other: str) -> WaitsFor:
    """What the other request of the deadlock has."""
    return WaitsFor("deadlock", lock=lock, holders=(Holder("GET", path, 12.0, core, has=lock, wants=other),))


#: Age, method, path, the innermost frame, and what it waits for.
_Served = tuple[float, str, str, Frame, WaitsFor | None]


class Planted:
    """The workers of the shop, as they are some seconds later."""

    def __init__(self, later_seconds: float) -> None:
        self._later_seconds = later_seconds

    def reading(self) -> Reading:
        first: list[_Served] = [
            (41.2 - number * 1.3, "GET", f"/checkout/{4711 + number}", _POOL, _WAITS_FOR_POOL) for number in range(8)
        ]
        second: list[_Served] = [
            (12.0, "GET", "/buy", _BUY, _deadlock("/refund", 1, "stock_lock", "ledger_lock")),
            (12.0, "GET", "/refund", _REFUND, _deadlock("/buy", 0, "ledger_lock", "stock_lock")),
            *[(9.3 - 1.1 * number, "POST", "/pay", _PAY, _WAITS_FOR_BANK) for number in range(4)],
        ]
        third: list[_Served] = [
            (7.1, "GET", "/export", _EXPORT, _WAITS_FOR_ROWS),
            (0.3, "GET", "/search", _SERVER[-1], None),
        ]
        workers = [self._worker(number, planted) for number, planted in enumerate((first, second, third), 1)]
        silent = WorkerReading(
            "/run/shop/tb4", 4, 1651, "busy", "4", "shop.wsgi", "timed out: it did not answer within 1 s"
        )
        return Reading(self._later_seconds, _NOW + self._later_seconds, (*workers, silent))

    def _worker(self, number: int, planted: list[_Served]) -> WorkerReading:
        stacks = []
        for core, (age, method, path, frame, waits) in enumerate(planted):
            is_running = waits is None
            request = Request(
                *(method, path, None, f"203.0.113.{number * 10 + core}", f"7f3a{number}{core}"),
                *(_NOW - age, age + self._later_seconds, "app"),
                waits_for=None if waits is None else with_sentence(waits),
            )
            stacks.append(
                Stack(
                    f"WSGIWorker{number}Core{core}",
                    core=core,
                    state="R" if is_running else "S",
                    cpu_seconds=0.93 * self._later_seconds if is_running else 0.0,
                    request=request,
                    frames=_SERVER if is_running else (*_SERVER, frame),
                )
            )
        worker = Worker(
            *(number, 1646 + number),
            started_at=_NOW - 9000.0,
            requests_finished=int(10.5 * self._later_seconds),
            slots=8,
            busy=len(stacks),
            listen=(ListenSocket(1, "tcp", "0.0.0.0:8000", 12, 2048),),
        )
        snapshot = Snapshot(worker, _NOW + self._later_seconds, tuple(stacks))
        return WorkerReading(
            f"/run/shop/tb{number}", number, worker.pid, "alive", str(number), "shop.wsgi", snapshot=snapshot
        )

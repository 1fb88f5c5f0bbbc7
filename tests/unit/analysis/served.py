"""Snapshots with requests in them, for the tests of what is concluded from them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsgi_tracebacker.model.snapshot import Frame, Request, Snapshot, Stack, Worker

if TYPE_CHECKING:
    from wsgi_tracebacker.model.waits import WaitsFor

THREAD = Frame("/usr/lib/python3.12/threading.py", 1030, "Thread._bootstrap", "    self._bootstrap_inner()")
GUNICORN = Frame("/venv/lib/python3.12/site-packages/gunicorn/workers/gthread.py", 282, "handle", "    self.run()")
MIDDLEWARE = Frame("/venv/lib/python3.12/site-packages/wsgi_tracebacker/middleware.py", 190, "__call__")
FLASK = Frame("/venv/lib/python3.12/site-packages/flask/app.py", 1498, "Flask.__call__", "    return self.wsgi_app()")
VIEW = Frame("/srv/shop/views.py", 41, "checkout", "    order = load_order(order_id)", 41, 12, 32)
ORDERS = Frame("/srv/shop/orders.py", 71, "load_order", "    with engine.connect() as connection:", 71, 9, 25)
PAY = Frame("/srv/shop/pay.py", 53, "charge", "    reply = requests.post(BANK_URL)", 53, 12, 35)
POOL = Frame("/venv/lib/python3.12/site-packages/sqlalchemy/pool/impl.py", 166, "QueuePool._do_get", "    self.get()")
WAIT = Frame("/usr/lib/python3.12/threading.py", 331, "Condition.wait", "    waiter.acquire()", 331, 4, 20)

SERVER = (THREAD, GUNICORN, MIDDLEWARE, FLASK)
IN_ORDERS = (*SERVER, VIEW, ORDERS, POOL, WAIT)
IN_PAY = (*SERVER, PAY)


def serving(
    path: str = "/checkout/4711",
    age_seconds: float = 1.0,
    *,
    core: int = 0,
    worker: int = 1,
    method: str = "GET",
    frames: tuple[Frame, ...] = IN_ORDERS,
    state: str | None = "S",
    wait_channel: str | None = "futex_wait_queue",
    cpu_seconds: float | None = 0.0,
    remote_address: str | None = None,
    request_id: str | None = None,
    waits_for: WaitsFor | None = None,
) -> Stack:
    """A thread that serves a request."""
    return Stack(
        f"WSGIWorker{worker}Core{core}",
        ident=1000 + core,
        native_id=2000 + core,
        core=core,
        state=state,
        wait_channel=wait_channel,
        cpu_seconds=cpu_seconds,
        request=Request(
            method,
            path,
            None,
            remote_address,
            request_id,
            1000.0 - age_seconds,
            age_seconds,
            "app",
            waits_for=waits_for,
        ),
        frames=frames,
    )


def snapshot(*stacks: Stack, worker: int = 1, application: str = "shop.wsgi:app", source: str = "worker") -> Snapshot:
    """A worker with these threads, under gunicorn."""
    return Snapshot(
        Worker(
            number=worker,
            pid=4000 + worker,
            started_at=900.0,
            server="gunicorn/27.0.1",
            application=application,
            requests_in_flight=sum(stack.request is not None for stack in stacks),
        ),
        taken_at=1000.0,
        stacks=stacks,
        source=source,
    )

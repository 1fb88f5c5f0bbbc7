"""Pools of real libraries: which one a thread waits for, and how full it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.worker.waits.waiting_threads import look, running
from wsgi_tracebacker.worker.waits import pools
from wsgi_tracebacker.worker.waits.pools import PoolWait

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def waiting_for(get: Callable[[], object], let_go: Callable[[], object]) -> list[PoolWait]:
    """What is found while a thread waits in ``get``."""
    with running(get):
        with look() as taken:
            found = pools.find(taken, taken.stacks)
        let_go()
    return list(found.values())


def test_sqlalchemy() -> None:
    """The size of a QueuePool, and what it may have beyond that."""
    sqlalchemy = pytest.importorskip("sqlalchemy")
    engine = sqlalchemy.create_engine(
        "sqlite://",
        poolclass=sqlalchemy.QueuePool,
        pool_size=2,
        max_overflow=1,
        connect_args={"check_same_thread": False},
    )
    taken = [engine.connect() for _ in range(3)]
    try:
        assert waiting_for(lambda: engine.connect().close(), taken[0].close) == [PoolWait("QueuePool", 3, 3)]
    finally:
        for connection in taken:
            connection.close()
        engine.dispose()


def test_urllib3() -> None:
    """A pool with ``block=True``."""
    urllib3 = pytest.importorskip("urllib3")
    with urllib3.HTTPConnectionPool("127.0.0.1", maxsize=2, block=True) as pool:
        taken = [pool._get_conn() for _ in range(2)]
        found = waiting_for(pool._get_conn, lambda: pool._put_conn(taken[0]))
    assert found == [PoolWait("HTTPConnectionPool", 2, 2)]


def test_redis() -> None:
    """A BlockingConnectionPool."""
    redis = pytest.importorskip("redis")

    class NotConnected(redis.Connection):  # type: ignore[misc,name-defined]
        def connect(self, *_: Any, **__: Any) -> None:
            pass

        def can_read(self, *_: Any, **__: Any) -> bool:
            return False

    pool = redis.BlockingConnectionPool(max_connections=2, connection_class=NotConnected)
    taken = [pool.get_connection() for _ in range(2)]
    found = waiting_for(pool.get_connection, lambda: pool.release(taken[0]))
    assert found == [PoolWait("BlockingConnectionPool", 2, 2)]


class Connection:
    """All that a pool of psycopg asks of a connection."""

    class _Info:
        transaction_status = 0

    pgconn = info = _Info()
    closed = False
    _pool: Any = None

    @classmethod
    def connect(cls, *_: Any, **__: Any) -> Connection:
        return cls()

    def close(self) -> None:
        self.closed = True

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            return None
        raise AttributeError(name)


@pytest.fixture
def psycopg_pool() -> Iterator[Any]:
    library = pytest.importorskip("psycopg_pool", exc_type=ImportError)
    with library.ConnectionPool("", min_size=2, max_size=2, connection_class=Connection, open=False) as pool:
        yield pool


def test_psycopg_pool(psycopg_pool: Any) -> None:
    """A pool whose connections are all taken."""
    psycopg_pool.wait()
    taken = [psycopg_pool.getconn() for _ in range(2)]
    try:
        found = waiting_for(
            lambda: psycopg_pool.putconn(psycopg_pool.getconn()), lambda: psycopg_pool.putconn(taken.pop())
        )
    finally:
        for connection in taken:
            psycopg_pool.putconn(connection)
    assert found == [PoolWait("ConnectionPool", 2, 2)]


def test_another_function_of_that_name_is_no_pool() -> None:
    """The file counts too."""

    class Own:
        def getconn(self, event: Any) -> None:
            event.wait(30)

    import threading

    event = threading.Event()
    assert waiting_for(lambda: Own().getconn(event), event.set) == []

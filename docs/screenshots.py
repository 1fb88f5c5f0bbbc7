"""Draw the pictures of README.md and ``docs/reference/top.md``: ``python -m docs.screenshots``.

The overview of ``wsgi-tb read`` is what it prints of the shop of ``wsgi-tb demo``. The readings of ``wsgi-tb top`` are
made up, so that the pictures show the same each time: a shop whose pool of connections is exhausted, with a deadlock
and a client that reads slowly. The application that draws them is the real one.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from wsgi_tracebacker.analysis.live import Reading, WorkerReading
from wsgi_tracebacker.demo.play import play
from wsgi_tracebacker.model.snapshot import Frame, ListenSocket, Request, Snapshot, Stack, Worker
from wsgi_tracebacker.model.waits import Holder, WaitsFor
from wsgi_tracebacker.reader.survey import Survey
from wsgi_tracebacker.text.waits import with_sentence
from wsgi_tracebacker.top.app import TopApp
from wsgi_tracebacker.top.readings import Taken

IMAGES = Path(__file__).parent / "images"

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


async def _draw(name: str, size: tuple[int, int], *keys: str) -> None:
    first, second = (Taken(Planted(later).reading(), Survey((), ())) for later in (0.0, 1.0))
    # It asks for no other reading before the picture is drawn.
    app = TopApp(first, lambda: second, lambda _: "", every_seconds=10.0)
    async with app.run_test(size=size) as pilot:
        app.post_message(TopApp.Arrived(second))
        await pilot.press(*keys)
        await pilot.pause()
        drawn = app.export_screenshot(title="wsgi-tb top")
    _write(name, drawn)


def _draw_overview() -> None:
    shown: list[str] = []
    play(shown.append, colour=True)
    command, _, overview = next(text for text in shown if "$ wsgi-tb read | head" in text).strip().partition("\n")
    width = max(cell_len(Text.from_ansi(line).plain) for line in overview.split("\n"))
    with Path("/dev/null").open("w") as nowhere:
        console = Console(record=True, width=width + 1, file=nowhere, force_terminal=True, color_system="standard")
        console.print(Text(command.partition(" | ")[0], style="dim"))
        console.print(Text.from_ansi(overview), soft_wrap=True)
        _write("read.svg", console.export_svg(title="wsgi-tb read"))


def _write(name: str, drawn: str) -> None:
    # The viewer's own font: a page of documentation asks no other host for one.
    (IMAGES / name).write_text(re.sub(r"@font-face \{.*?\}", "", drawn, flags=re.DOTALL))


def main() -> None:
    """Draw all of them."""
    IMAGES.mkdir(exist_ok=True)
    _draw_overview()
    asyncio.run(_draw("top-requests.svg", (140, 26), "enter"))
    asyncio.run(_draw("top-places.svg", (80, 14), "2"))


if __name__ == "__main__":
    main()

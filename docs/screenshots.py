"""Draw the pictures of the documentation: ``python -m docs.screenshots [NAME …]``.

They show what the command really prints of ``docs/busy_shop.py`` under gunicorn: a bank that does not answer, and so a
pool without connections; a deadlock; a worker that does nothing else while a C call holds the GIL. The flame graph is a
recording of the same shop while the bank answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from tests.support import black_boxes
from tests.support.browser import chromium, click, wait_for_text
from tests.support.servers import Server
from tests.support.waiting import wait_until
from wsgi_tracebacker.top.app import TopApp
from wsgi_tracebacker.top.readings import Question

if TYPE_CHECKING:
    from collections.abc import Iterator

    from selenium.webdriver.chrome.webdriver import WebDriver

DOCS = Path(__file__).parent
IMAGES = DOCS / "images"
COMMAND = (sys.executable, "-m", "wsgi_tracebacker")

#: By worker: the requests that it gets. The first three payments have all connections of its pool.
PAYMENTS = ("POST /pay",) * 3
WORKERS = (
    (*PAYMENTS, *(f"GET /checkout/{4711 + number}" for number in range(5))),
    (*PAYMENTS, *(f"GET /checkout/{5120 + number}" for number in range(4))),
    ("GET /buy", "GET /refund", "GET /invoice/12", "GET /invoice/13"),
    ("GET /search",),
)
#: So that they have different ages.
BETWEEN_REQUESTS_SECONDS = 0.3
#: How old the youngest one is before it is looked at.
AGE_SECONDS = 1.0
#: Of a bank that answers.
BANK_SECONDS = 0.15


class Bank:
    """It takes every connection, and answers after a while or never."""

    def __init__(self, answers_after_seconds: float | None) -> None:
        self._seconds = answers_after_seconds
        # Ports that the kernel chooses are not shown in a flame graph: they are of no service.
        self._listening = socket.create_server(("127.0.0.1", 8378))
        self.url = f"http://localhost:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._take, daemon=True).start()

    def close(self) -> None:
        # Wakes the thread out of accept; to close the descriptor would not.
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _take(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            connection.recv(65536)
            if self._seconds is None:
                threading.Event().wait()
            else:
                # A bank that takes its time is what the picture shows.
                time.sleep(self._seconds)
                connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok")


@contextlib.contextmanager
def shop(bank: Bank, workers: int) -> Iterator[tuple[str, int]]:
    """The shop: its base and its port."""
    with tempfile.TemporaryDirectory(prefix="tb-", dir="/tmp") as name:
        folder = Path(name) / "shop"
        folder.mkdir()
        shutil.copy(DOCS / "busy_shop.py", folder / "shop.py")
        base = f"{name}/tb"
        command = [sys.executable, "-m", "gunicorn", "-c", "python:wsgi_tracebacker.servers.gunicorn", "shop:app"]
        command += ["--bind", "127.0.0.1:0", "--workers", str(workers), "--threads", "8", "--keep-alive", "600"]
        command += ["--graceful-timeout", "1", "--no-control-socket"]
        environment = {"BANK": bank.url, "WSGI_TB_SOCKET": base, "PYTHONPATH": str(DOCS.parent)}
        try:
            with Server(command, Path(name) / "log", env=environment, cwd=folder) as server:
                yield base, int(server.wait_for_log(r"Listening at: http://127\.0\.0\.1:(\d+)")[1])
        finally:
            black_boxes.remove(base)


@contextlib.contextmanager
def busy_shop() -> Iterator[str]:
    """The shop while the bank does not answer, with every request of WORKERS in flight: its base."""
    with (
        contextlib.closing(Bank(None)) as bank,
        shop(bank, len(WORKERS)) as (base, port),
        contextlib.ExitStack() as clients,
    ):
        by_worker: dict[bytes, list[http.client.HTTPConnection]] = defaultdict(list)

        def are_enough() -> bool:
            most = sorted(map(len, by_worker.values()), reverse=True)
            # One more, for the requests that end.
            wanted = [len(requests) + (number == 2) for number, requests in enumerate(WORKERS)]
            return len(most) == len(wanted) and all(map(int.__ge__, most, sorted(wanted, reverse=True)))

        while not are_enough():
            client = clients.enter_context(contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)))
            client.request("GET", "/")
            by_worker[client.getresponse().read()].append(client)
        taken = sorted(by_worker.values(), key=len, reverse=True)
        for connections, requests in zip(taken, WORKERS, strict=True):
            for client, request in zip(connections, requests, strict=False):
                client.request(*request.split())
                # No two are of the same age in the picture.
                time.sleep(BETWEEN_REQUESTS_SECONDS)
        ends = threading.Event()
        ordinary = threading.Thread(target=_ask_on, args=(taken[2][-1], ends))
        ordinary.start()
        try:
            # The age is what the picture is to show.
            time.sleep(AGE_SECONDS)
            yield base
        finally:
            ends.set()
            ordinary.join()


def _ask_on(client: http.client.HTTPConnection, ends: threading.Event) -> None:
    while not ends.wait(0.05):
        client.request("GET", "/")
        client.getresponse().read()


# The pictures


def draw_read(base: str) -> None:
    environment = {**os.environ, "COLUMNS": "116"}
    done = subprocess.run(
        [*COMMAND, "read", "--color", "always", base], env=environment, capture_output=True, text=True, check=False
    )
    overview = re.split(r"\n(?=(?:\x1b\[[\d;]*m)*1(?:\x1b\[[\d;]*m)*  )", done.stdout, maxsplit=1)[0].rstrip()
    width = max(cell_len(Text.from_ansi(line).plain) for line in overview.split("\n"))
    with Path("/dev/null").open("w") as nowhere:
        console = Console(record=True, width=width + 1, file=nowhere, force_terminal=True, color_system="standard")
        console.print(Text("$ wsgi-tb read", style="dim"))
        console.print(Text.from_ansi(overview), soft_wrap=True)
        _write("read.svg", console.export_svg(title="wsgi-tb read"))


def draw_top(base: str) -> None:
    asyncio.run(_draw_top(base, "top-requests.svg", (120, 26)))
    asyncio.run(_draw_top(base, "top-stack.svg", (140, 26), "down", "down", "down", "enter"))
    asyncio.run(_draw_top(base, "top-places.svg", (80, 16), "2"))


async def _draw_top(base: str, name: str, size: tuple[int, int], *keys: str) -> None:
    question = Question((base,), (), 1.0)
    app = TopApp(question.ask(), question.ask_again, lambda _: "", every_seconds=1.0)
    async with app.run_test(size=size) as pilot:
        # A share of the CPU is known from the second reading on; asking takes a second while a worker is stalled.
        await asyncio.sleep(2.5)
        await pilot.press(*keys)
        await pilot.pause()
        drawn = app.export_screenshot(title="wsgi-tb top")
    _write(name, drawn)


def _write(name: str, drawn: str) -> None:
    # The viewer's own font: a page of documentation asks no other host for one.
    (IMAGES / name).write_text(re.sub(r"@font-face \{.*?\}", "", drawn, flags=re.DOTALL))


def draw_web(base: str) -> None:
    with tempfile.TemporaryDirectory(prefix="tb-", dir="/tmp") as folder:
        log = Path(folder) / "log"
        with Server([*COMMAND, "web", "--listen", "127.0.0.1:0", base], log) as server, _browser() as driver:
            address = server.wait_for_log(r"(http://127\.0\.0\.1:\d+/) shows")[1]
            for name, width, height, scheme in (
                ("web-light-1200.png", 1200, 700, "light"),
                ("web-dark-360.png", 360, 720, "dark"),
            ):
                _be(driver, width, height, scheme)
                driver.get(address)
                click(driver, "tbody a[data-live]")
                wait_for_text(driver, "tr.opened", "shop.py")
                driver.save_screenshot(str(IMAGES / name))
            _be(driver, 1200, 640, "light")
            driver.get(address)
            driver.execute_script("document.getElementById('seconds').value = 3")
            click(driver, "#record")
            wait_for_text(driver, "#recorded", "recorded")
            driver.save_screenshot(str(IMAGES / "web-record.png"))


def draw_flame_graph() -> None:
    """Often more want a connection than a worker has."""
    with (
        contextlib.closing(Bank(BANK_SECONDS)) as bank,
        shop(bank, 2) as (base, port),
        contextlib.ExitStack() as stack,
    ):
        ends = threading.Event()

        def ask(method: str, path: str) -> None:
            while not ends.wait(0.02):
                with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)) as client:
                    client.request(method, path)
                    client.getresponse().read()

        for method, path in [("POST", "/pay")] * 7 + [("GET", "/checkout/4711")] * 2 + [("GET", "/orders/17")] * 2:
            client = threading.Thread(target=ask, args=(method, path))
            client.start()
            stack.callback(client.join)
        stack.callback(ends.set)
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="tb-", dir="/tmp"))
        page = Path(folder) / "page.html"
        wait_until(lambda: len(list(Path(base).parent.glob("tb*.worker"))) == 2, "both workers are there")
        subprocess.run([*COMMAND, "record", "-d", "10", "-o", str(page), base], check=True)
        with _browser() as driver:
            _be(driver, 1000, 640, "light")
            driver.get(page.as_uri())
            wait_for_text(driver, "#lines", "shop.py")
            driver.save_screenshot(str(IMAGES / "flame-graph.png"))


@contextlib.contextmanager
def _browser() -> Iterator[WebDriver]:
    with (
        tempfile.TemporaryDirectory(prefix="tb-chromium-", dir="/tmp", ignore_cleanup_errors=True) as folder,
        chromium(Path(folder)) as driver,
    ):
        yield driver


def _be(driver: WebDriver, width: int, height: int, scheme: str) -> None:
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


BUSY = {"top": draw_top, "read": draw_read, "web": draw_web}


def main(names: list[str]) -> None:
    """Draw all of them, or those that are named: top, read, web, flame."""
    IMAGES.mkdir(exist_ok=True)
    if chosen := [draw for name, draw in BUSY.items() if not names or name in names]:
        with busy_shop() as base:
            for draw in chosen:
                draw(base)
    if not names or "flame" in names:
        draw_flame_graph()


if __name__ == "__main__":
    main(sys.argv[1:])

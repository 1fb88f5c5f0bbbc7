"""wsgi-tb web: the page in real Chromium, on real gunicorn."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from tests.support import black_boxes
from tests.support.browser import click, complaints, reset, violations, wait_for_text
from tests.support.servers import Gunicorn, Server
from tests.support.waiting import wait_until
from wsgi_tracebacker.web.views import VIEWS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from selenium.webdriver.chrome.webdriver import WebDriver
    from selenium.webdriver.remote.webelement import WebElement


COMMAND = (sys.executable, "-m", "wsgi_tracebacker", "web")
CONFIGURATION = ("-c", "python:wsgi_tracebacker.servers.gunicorn")

#: Markup in a path, which every view shows.
HOSTILE = "/slow/%3Cscript%3Ealert(3)%3C%2Fscript%3E%3Cimg%20src=x%20onerror=alert(4)%3E"
FIRST_LINK = "tbody a[data-live]"


@contextlib.contextmanager
def serving(log: Path, *arguments: str, host: str = "127.0.0.1") -> Iterator[tuple[Server, tuple[str, int]]]:
    with Server([*COMMAND, "--listen", f"{host}:0", *arguments], log) as server:
        yield server, (host, int(server.wait_for_log(rf"http://{re.escape(host)}:(\d+)/ shows")[1]))


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    """The page on two workers with three requests, one of them with markup in its path."""
    with tempfile.TemporaryDirectory(prefix="tb-", dir="/tmp") as folder, contextlib.ExitStack() as stack:
        base = f"{folder}/tb"
        stack.callback(black_boxes.remove, base)
        arguments = ("tests.programs.markup:application", *CONFIGURATION, "--workers", "2", "--threads", "4")
        server = stack.enter_context(Gunicorn(*arguments, log=Path(folder) / "log", env={"WSGI_TB_SOCKET": base}))
        for target in ("/slow", "/slow", HOSTILE):
            stack.enter_context(server.in_flight(target))
        _, (host, port) = stack.enter_context(serving(Path(folder) / "web.log", base))
        yield f"http://{host}:{port}/"


@pytest.fixture
def page(driver: WebDriver, site: str) -> Iterator[WebDriver]:
    """The page in a window of its usual size; in the end nothing stands in the console."""
    reset(driver)
    driver.get(site)
    wait_for_text(driver, "tbody", "GET /slow")
    yield driver
    assert complaints(driver) == []


def test_each_view_is_shown_and_nobody_is_kept_out(page: WebDriver) -> None:
    """A click on its name; axe-core finds nothing in any of them, nor in an open stack."""
    for view in VIEWS:
        click(page, f"#view-{view.name}")
        wait_for_text(page, "[aria-current=page]", view.title)
        if view.name != "locks":
            # Nobody has one here.
            wait_for_text(page, "thead", view.columns[0].title)
        assert violations(page) == []
    click(page, "#view-places")
    wait_for_text(page, "thead", "OLDEST")
    click(page, FIRST_LINK)
    wait_for_text(page, "tr.opened", "dormi")
    assert violations(page) == []


def test_a_request_opens_its_stack(page: WebDriver) -> None:
    """Folded at first; what is opened stays so when the page renews itself, until it is closed again."""
    click(page, FIRST_LINK)
    wait_for_text(page, "tr.opened", "time.sleep(600.0")
    wait_for_text(page, "tr.opened", "calls of gunicorn")
    click(page, "tr.opened details summary")
    before = page.execute_script("return document.querySelector('time').textContent")
    wait_until(
        lambda: page.execute_script("return document.querySelector('time').textContent") != before, "it renews itself"
    )
    assert page.execute_script("return document.querySelector('tr.opened details').open")
    assert "open=" in page.current_url
    click(page, "#full")
    wait_until(
        lambda: page.execute_script("return [...document.querySelectorAll('tr.opened details')].every(d => d.open)"),
        "nothing is folded",
    )
    click(page, FIRST_LINK)
    wait_until(lambda: page.execute_script("return !document.querySelector('tr.opened')"), "it is closed")


def test_filter_and_pause(page: WebDriver) -> None:
    """Only rows with the words that are written; paused, nothing changes until it goes on."""
    count = "return document.querySelectorAll('tbody tr').length"
    assert page.execute_script(count) == 3
    write(page, "<img")
    wait_until(lambda: page.execute_script(count) == 1, "one row has it")
    page.refresh()
    wait_until(lambda: page.execute_script(count) == 1, "the address has the words")
    click(page, "#pause")
    wait_for_text(page, "#pause", "Go on")
    paused = page.execute_script(
        "const live = document.getElementById('live'); live.untouched = true; return live.innerHTML"
    )
    page.execute_async_script("setTimeout(arguments[0], 2500)")
    assert page.execute_script("return document.getElementById('live').innerHTML") == paused
    click(page, "#pause")
    wait_until(lambda: page.execute_script("return document.getElementById('live').innerHTML") != paused, "it goes on")


def press(page: WebDriver, *keys: str) -> None:
    """On whatever has the focus; the page may replace it at any moment."""
    ActionChains(page).send_keys(*keys).perform()


def write(page: WebDriver, words: str) -> None:
    """Into the filter, which is replaced while they are written."""
    page.execute_script("document.getElementById('filter').focus()")
    press(page, words)


def focused(page: WebDriver) -> str:
    return str(page.execute_script("return document.activeElement.id"))


def test_with_the_keyboard_only(page: WebDriver) -> None:
    """Every key that the page names."""
    press(page, "/")
    assert focused(page) == "filter"
    press(page, "slow", Keys.ESCAPE)
    wait_until(lambda: "q=slow" in page.current_url, "it filters")
    press(page, Keys.ARROW_DOWN)
    first = focused(page)
    press(page, Keys.ARROW_DOWN)
    assert focused(page) != first
    press(page, Keys.ARROW_UP)
    assert focused(page) == first
    press(page, Keys.ENTER)
    wait_for_text(page, "tr.opened", "dormi")
    # It was replaced meanwhile, and has the focus still.
    assert focused(page) == first
    press(page, Keys.ENTER)
    wait_until(lambda: page.execute_script("return !document.querySelector('tr.opened')"), "it is closed")
    press(page, Keys.SPACE)
    wait_for_text(page, "#pause", "Go on")
    press(page, Keys.SPACE)
    wait_for_text(page, "#pause", "Pause")
    seen = set()
    for _ in range(30):
        press(page, Keys.TAB)
        seen.add(focused(page))
    assert {"filter", "pause", "full", *(f"view-{view.name}" for view in VIEWS), first} <= seen


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The page on a made-up shop, in which all that can go wrong does."""
    log = tmp_path_factory.mktemp("shop") / "log"
    with Server([sys.executable, "-m", "tests.programs.planted_page"], log) as server:
        yield server.wait_for_log(r"http://\S+")[0]


@pytest.mark.parametrize(("width", "height", "scheme"), [(360, 720, "dark"), (360, 720, "light"), (1200, 700, "light")])
def test_on_a_telephone_and_in_the_dark(driver: WebDriver, shop: str, width: int, height: int, scheme: str) -> None:
    """Nothing is cut off at the right, and all of it can be read."""
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    for view in VIEWS:
        driver.get(f"{shop}?view={view.name}")
        wait_for_text(driver, "[aria-current=page]", view.title)
        assert driver.execute_script("return document.scrollingElement.scrollWidth") <= width
        assert violations(driver) == []
    driver.get(shop)
    click(driver, FIRST_LINK)
    wait_for_text(driver, "tr.opened", "load_order")
    assert driver.execute_script("return document.scrollingElement.scrollWidth") <= width
    assert violations(driver) == []
    background = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", background))) < 300) == (scheme == "dark")
    assert complaints(driver) == []


def test_the_holder_of_a_lock_is_a_link(driver: WebDriver, shop: str) -> None:
    """It opens the row of that request, and goes there."""
    driver.get(f"{shop}?q=buy")
    wait_for_text(driver, FIRST_LINK, "GET /buy")
    click(driver, FIRST_LINK)
    wait_for_text(driver, "tr.opened", "Held by GET /refund, worker 2 core 1")
    click(driver, "tr.opened a[data-live]")
    wait_until(
        lambda: driver.execute_script("return document.activeElement.textContent") == "GET /refund",
        "the row of the holder has the focus",
    )
    wait_for_text(driver, "tr.opened", "with ledger_lock:")
    assert violations(driver) == []
    assert complaints(driver) == []


def test_markup_is_text(page: WebDriver) -> None:
    """Nor in a note, in source, or in what is looked for: no element is made of it, and no script runs."""
    for view in ("requests", "routes"):
        click(page, f"#view-{view}")
        wait_for_text(page, "[aria-current=page]", view)
        wait_for_text(page, "tbody", "<script>alert(3)<")
        assert page.execute_script("return document.querySelectorAll('#live script, #live img').length") == 0
    click(page, "#view-requests")
    wait_for_text(page, "tbody", "<script>alert(2)</script>")
    click(page, FIRST_LINK)
    wait_for_text(page, "tr.opened", "<script>alert(1)</script>")
    assert page.execute_script("return document.querySelectorAll('#live script, #live img').length") == 0
    write(page, '"><script>alert(1)</script>')
    wait_for_text(page, "main", "No row has these words.")
    page.refresh()
    wait_for_text(page, "main", "No row has these words.")
    assert page.execute_script("return document.querySelectorAll('#live script').length") == 0


def test_it_is_read_without_its_script(page: WebDriver) -> None:
    """Views, stacks and the filter are links and a form."""

    def wait_for(selector: str, text: str) -> WebElement:
        """Until it has been loaded; nothing is replaced after that."""

        def found() -> WebElement | None:
            try:
                element = page.find_element("css selector", selector)
                return element if text in element.text else None
            except (NoSuchElementException, StaleElementReferenceException):
                return None

        element = wait_until(found, f"{selector} has {text}")
        assert element is not None
        return element

    page.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        page.refresh()
        wait_for("#view-places", "places").click()
        wait_for("thead", "OLDEST")
        wait_for(FIRST_LINK, "GET").click()
        wait_for("tr.opened", "dormi")
        wait_for("#filter", "").send_keys("nothing has this", Keys.ENTER)
        wait_for("main", "No row has these words.")
        assert "view=places" in page.current_url
    finally:
        page.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_a_worker_that_is_lost_is_a_row(driver: WebDriver, base: str, tmp_path: Path) -> None:
    """Its request is said to be lost with it, and its successor has a row of its own."""
    arguments = ("example_app.wsgi:application", *CONFIGURATION)
    with (
        serving(tmp_path / "web.log", base) as (_, (host, port)),
        Gunicorn(*arguments, log=tmp_path / "log", env={"WSGI_TB_SOCKET": base}) as gunicorn,
        gunicorn.in_flight("/slow?seconds=60"),
    ):
        driver.get(f"http://{host}:{port}/?view=workers")
        wait_for_text(driver, "tbody", "alive")
        click(driver, "#view-requests")
        wait_for_text(driver, "tbody", "GET /slow")
        [worker] = gunicorn.workers()
        os.kill(worker, signal.SIGKILL)
        wait_for_text(driver, "tbody", "it has ended, and its socket is gone")
        click(driver, "#view-workers")
        wait_for_text(driver, "tbody", f"{worker}gone")
        wait_for_text(driver, "tbody", "alive")
    # Another test looks at its own.
    complaints(driver)


# At an address that is no loopback one, without TLS, browsers do not say that a form is of the same site.
@pytest.mark.parametrize("listen", ["127.0.0.1", "0.0.0.0"])
def test_a_login_with_a_token(driver: WebDriver, base: str, tmp_path: Path, listen: str) -> None:
    """Without it there is a form and nothing else; with it the page, until the browser forgets the cookie."""
    token = tmp_path / "token"
    token.write_text("0123456789abcdef\n")
    token.chmod(0o600)
    with serving(tmp_path / "web.log", base, "--token-file", str(token), host=listen) as (_, (host, port)):
        address = f"http://{host}:{port}/"
        driver.get(address)
        assert driver.current_url == f"{address}login"
        assert violations(driver) == []
        driver.find_element("id", "token").send_keys("wrong", Keys.ENTER)
        wait_for_text(driver, "[role=alert]", "That is not the token.")
        driver.find_element("id", "token").send_keys("0123456789abcdef", Keys.ENTER)
        wait_for_text(driver, "main", "Nothing is in flight.")
        cookie = driver.get_cookie("wsgi_tb")
        assert cookie is not None
        assert (cookie["httpOnly"], cookie["sameSite"], cookie["value"] != "0123456789abcdef") == (True, "Strict", True)
        driver.delete_all_cookies()
        driver.get(address)
        assert driver.current_url == f"{address}login"
    complaints(driver)

"""The record button of wsgi-tb web, in real Chromium, on real gunicorn."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from tests.support import black_boxes
from tests.support.browser import click, complaints, reset, violations, wait_for_text
from tests.support.servers import Gunicorn, Server
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from selenium.webdriver.chrome.webdriver import WebDriver

COMMAND = (sys.executable, "-m", "wsgi_tracebacker", "web", "--listen", "127.0.0.1:0")
CONFIGURATION = ("-c", "python:wsgi_tracebacker.servers.gunicorn")


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    """The page on two workers of one thread, each of which has a request; their paths are markup."""
    with tempfile.TemporaryDirectory(prefix="tb-", dir="/tmp") as folder, contextlib.ExitStack() as stack:
        base = f"{folder}/tb"
        stack.callback(black_boxes.remove, base)
        arguments = ("tests.programs.markup:application", *CONFIGURATION, "--workers", "2", "--timeout", "600")
        server = stack.enter_context(Gunicorn(*arguments, log=Path(folder) / "log", env={"WSGI_TB_SOCKET": base}))
        for target in ("/first/%3Cimg%20src=x%20onerror=alert(4)%3E", "/second"):
            stack.enter_context(server.in_flight(target))
        web = stack.enter_context(Server([*COMMAND, base], Path(folder) / "web.log"))
        yield web.wait_for_log(r"(http://\S+/) shows")[1]


@pytest.fixture
def page(driver: WebDriver, site: str) -> Iterator[WebDriver]:
    """The page in a window of its usual size; in the end nothing stands in the console."""
    reset(driver)
    driver.get(site)
    wait_for_text(driver, "tbody", "GET /second")
    yield driver
    assert complaints(driver) == []


def write_seconds(page: WebDriver, seconds: str) -> None:
    """With keys, over what stands there."""
    page.execute_script("document.getElementById('seconds').focus()")
    page.execute_script("document.getElementById('seconds').select()")
    ActionChains(page).send_keys(seconds).perform()


def recorded(page: WebDriver) -> None:
    wait_for_text(page, "#recorded", "recorded")
    wait_for_text(page, "#flame-title", "Where the time goes")


@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (360, "dark")])
def test_a_recording_with_the_keyboard(page: WebDriver, width: int, scheme: str, tmp_path: Path) -> None:
    """Enter in the field starts it; the graph stands in the page, which goes on, until it is closed."""
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    write_seconds(page, "1")
    ActionChains(page).send_keys(Keys.ENTER).perform()
    recorded(page)
    wait_for_text(page, "#flame", "2 requests in 2 workers")
    wait_for_text(page, "#route", "GET /second")
    wait_for_text(page, "#lines", "markup.py:")
    assert page.execute_script("return document.querySelectorAll('#flame img, #flame script:not([type])').length") == 0
    page.execute_script("document.getElementById('graph').focus()")
    ActionChains(page).send_keys(Keys.ARROW_DOWN).perform()
    wait_for_text(page, "#said", "GET /")
    # The keys of the page are not those of the graph.
    assert page.execute_script("return document.activeElement.id") == "graph"
    ActionChains(page).send_keys("/").perform()
    assert page.execute_script("return document.activeElement.id") == "search"
    ActionChains(page).send_keys("dormi").perform()
    wait_for_text(page, "#found", "s, ")
    assert page.execute_script("return document.scrollingElement.scrollWidth") <= width
    assert violations(page) == []
    file = Path(os.environ.get("SCREENSHOTS") or tmp_path) / f"web-record-{scheme}-{width}.png"
    assert page.save_screenshot(str(file))
    before = page.execute_script("return document.querySelector('time').textContent")
    wait_until(
        lambda: page.execute_script("return document.querySelector('time').textContent") != before, "the page goes on"
    )
    click(page, "#close")
    wait_until(lambda: page.execute_script("return document.getElementById('flame').hidden"), "it is closed")


def test_one_worker_and_once_more(page: WebDriver) -> None:
    """The button in the row of a worker records this one; the second graph takes the place of the first."""
    write_seconds(page, "1")
    click(page, "#record")
    recorded(page)
    wait_for_text(page, "#flame", "in 2 workers")
    click(page, "tbody a[data-live]")
    wait_for_text(page, "tr.opened", "Record worker")
    click(page, "tr.opened button[name=worker]")
    wait_for_text(page, "#flame", "1 request in 1 worker")
    recorded(page)
    assert page.execute_script("return document.querySelectorAll('#graph').length") == 1


def test_a_field_that_is_no_length_records_nothing(page: WebDriver) -> None:
    """The browser says so, before anything is sent; the page's own words are shown if it is sent in spite of that."""
    write_seconds(page, "0")
    click(page, "#record")
    assert page.execute_script("return document.getElementById('seconds').validity.rangeUnderflow")
    page.execute_script("document.getElementById('record-form').noValidate = true")
    click(page, "#record")
    wait_for_text(page, "#recorded", "a recording lasts up to 60 seconds")
    # The browser writes every answer of 400 into its console.
    [line] = complaints(page)
    assert "400" in line


def test_without_the_script(page: WebDriver) -> None:
    """The form answers with the page of the graph, whose table is there without a script too."""
    page.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        page.refresh()
        wait_until(lambda: page.find_elements("css selector", "noscript p"), "it has no script")
        field = page.find_element("id", "seconds")
        field.clear()
        field.send_keys("1", Keys.ENTER)
        wait_until(lambda: page.current_url.endswith("/record"), "it has answered")
        wait_until(lambda: "dormi" in page.find_element("tag name", "main").text, "the table is there")
    finally:
        page.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})

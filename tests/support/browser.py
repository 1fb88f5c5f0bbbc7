"""Debian's Chromium, driven by Selenium and Debian's chromedriver; and axe-core, which finds what keeps people out."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.programs import require_file, require_program
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from selenium.webdriver.chrome.webdriver import WebDriver

#: ``make`` installs it there.
_AXE = Path(sys.prefix) / "axe" / "node_modules" / "axe-core" / "axe.min.js"


@contextlib.contextmanager
def chromium(folder: Path) -> Iterator[WebDriver]:
    """A browser without a window, with a profile of its own."""
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service

    options = ChromeOptions()
    options.binary_location = require_program("chromium")
    arguments = ["--headless=new", "--window-size=1200,800", f"--user-data-dir={folder}/profile", "--no-first-run"]
    arguments += ["--disable-gpu", "--disable-background-networking", "--force-color-profile=srgb"]
    if os.geteuid() == 0:
        arguments.append("--no-sandbox")
    for argument in arguments:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options, Service(require_program("chromedriver")))
    try:
        driver.set_script_timeout(60)
        yield driver
    finally:
        driver.quit()


def complaints(driver: WebDriver) -> list[str]:
    """What stands in the console since it was last looked at."""
    entries: list[dict[str, Any]] = driver.get_log("browser")  # type: ignore[no-untyped-call]
    return [f"{entry['level']}: {entry['message']}" for entry in entries]


def requested(driver: WebDriver) -> list[str]:
    """The addresses that were asked for since this was called last, the page's own among them."""
    entries: list[dict[str, Any]] = driver.get_log("performance")  # type: ignore[no-untyped-call]
    events = [json.loads(entry["message"])["message"] for entry in entries]
    return [each["params"]["request"]["url"] for each in events if each["method"] == "Network.requestWillBeSent"]


def violations(driver: WebDriver) -> list[str]:
    """What axe-core finds on the page. It is injected by the driver, which no policy of the page stops."""
    source = require_file(_AXE).read_text(encoding="utf-8")
    driver.execute_script(source)
    found: list[dict[str, Any]] = driver.execute_async_script(
        "axe.run(document, {resultTypes: ['violations']}).then(found => arguments[0](found.violations))"
    )
    return [f"{each['id']}: {each['help']}: {[node['html'] for node in each['nodes']][:3]}" for each in found]


def wait_for_text(driver: WebDriver, selector: str, text: str) -> None:
    """Until an element has a text; the page replaces its elements, so that one may go at any moment."""
    script = "return [...document.querySelectorAll(arguments[0])].map(each => each.textContent).join('\\n')"
    wait_until(
        lambda: text in driver.execute_script(script, selector),
        lambda: f"{selector} has {text!r}: {driver.execute_script(script, 'body')}",
    )


def reset(driver: WebDriver) -> None:
    """Give the window its usual size and colours."""
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def click(driver: WebDriver, selector: str) -> None:
    """As a reader does, on whatever has that place at that moment."""
    clicked = wait_until(
        lambda: driver.execute_script(
            "const found = document.querySelector(arguments[0]); found && found.click(); return !!found;", selector
        ),
        f"{selector} is there",
    )
    assert clicked

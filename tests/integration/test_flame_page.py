"""The page that ``wsgi-tb record`` writes, in real Chromium: by mouse, by keyboard, and with a lot in it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.support.browser import complaints, requested, violations, wait_for_text
from tests.support.programs import PROJECT
from tests.support.waiting import wait_until
from tests.unit.wire.profiles.recordings import RECORDING
from wsgi_tracebacker.model.recording import RecordedStack
from wsgi_tracebacker.model.snapshot import Frame
from wsgi_tracebacker.wire.profiles import raw

if TYPE_CHECKING:
    from collections.abc import Iterator

    from selenium.webdriver.chrome.webdriver import WebDriver

    from wsgi_tracebacker.model.recording import Recording

ROW = 20
#: Markup in a path and in a name, as hostile as they come; and a path that is wider than a telephone.
HOSTILE = RecordedStack(
    "GET /<img src=x onerror=alert(1)>" + 9 * "/and/on",
    1,
    4711,
    "lock",
    (Frame("/srv/</script>.py", 1, "<b>run</b>"),),
    False,
    0.5,
    50,
)


def written(recording: Recording, folder: str, name: str, *options: str) -> Path:
    """The page of a recording, as the command makes it."""
    source, target = Path(folder) / f"{name}.jsonl", Path(folder) / f"{name}.html"
    source.write_text("".join(f"{line}\n" for line in raw.lines(recording)), encoding="utf-8")
    command = [sys.executable, "-m", "wsgi_tracebacker", "record", "--from", str(source), "-o", str(target), *options]
    subprocess.run(command, cwd=PROJECT, check=True, capture_output=True)
    return target


@pytest.fixture(scope="module")
def folder() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="tb-", dir="/tmp", ignore_cleanup_errors=True) as found:
        yield found


@pytest.fixture(scope="module")
def small(folder: str) -> Path:
    # No browser breaks such a name by itself.
    application = "shop.of_a_company.with_a_very_long_name.wsgi:application"
    return written(RECORDING._replace(stacks=(*RECORDING.stacks, HOSTILE), application=application), folder, "small")


@pytest.fixture
def page(driver: WebDriver, small: Path) -> Iterator[WebDriver]:
    """The page, just opened; in the end nothing stands in the console, and it asked for nothing but itself."""
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    requested(driver)
    driver.get(small.as_uri())
    wait_for_text(driver, "#said", "all requests, 10.00 s, 100.0 %")
    yield driver
    assert complaints(driver) == []
    assert set(requested(driver)) == {small.as_uri()}


def press(page: WebDriver, *keys: str) -> None:
    ActionChains(page).send_keys(*keys).perform()


def said(page: WebDriver) -> str:
    return page.find_element(By.ID, "said").text


def at(page: WebDriver, row: int, share: float) -> ActionChains:
    """The mouse on the graph: in a row, at a share of its width."""
    graph = page.find_element(By.ID, "graph")
    size = graph.size
    x, y = int((share - 0.5) * size["width"]), int((row + 0.5) * ROW - size["height"] / 2)
    return ActionChains(page).move_to_element_with_offset(graph, x, y)


def columns(page: WebDriver, selector: str = "#lines tr") -> list[list[str]]:
    script = "return [...document.querySelectorAll(arguments[0])].map(r => [...r.cells].map(c => c.textContent))"
    found: list[list[str]] = page.execute_script(script, selector)
    return found


def colours(page: WebDriver) -> set[tuple[int, ...]]:
    """Those of the graph, each of which covers a hundredth of it."""
    counted: dict[str, int] = page.execute_script(
        "const c = document.getElementById('graph'), copy = new OffscreenCanvas(c.width, c.height);"
        "const pen = copy.getContext('2d', {willReadFrequently: true}); pen.drawImage(c, 0, 0);"
        "const p = pen.getImageData(0, 0, c.width, c.height).data;"
        "const found = {};"
        "for (let i = 0; i < p.length; i += 4) if (p[i + 3] === 255)"
        " { const k = `${p[i]},${p[i + 1]},${p[i + 2]}`; found[k] = (found[k] || 0) + 1; }"
        "return Object.fromEntries(Object.entries(found).filter(([, n]) => n > p.length / 400));"
    )
    return {tuple(map(int, key.split(","))) for key in counted}


def test_the_mouse_shows_zooms_and_goes_back(page: WebDriver) -> None:
    """What is under it is in the tooltip with place, seconds and share; a click makes it as wide as the page."""
    at(page, 1, 0.3).perform()
    wait_until(lambda: page.find_element(By.ID, "tip").text == "GET /orders/:, 7.50 s, 75.0 %", "the route is named")
    at(page, 2, 0.85).perform()
    wait_for_text(page, "#tip", "view, shop.py:4, your code, 2.00 s, 20.0 %")
    at(page, 1, 0.85).click().perform()
    assert said(page) == "POST /pay, 2.00 s, 20.0 %"
    at(page, 4, 0.05).perform()
    wait_for_text(page, "#tip", "sleep, <frozen x>, 2.00 s, 20.0 %")
    at(page, 5, 0.05).perform()
    wait_for_text(page, "#tip", "waits for sleep, 2.00 s, 20.0 %")
    page.find_element(By.ID, "reset").click()
    assert said(page) == "all requests, 10.00 s, 100.0 %"
    at(page, 5, 0.05).perform()
    wait_until(lambda: page.find_element(By.ID, "tip").is_displayed() is False, "nothing is there")


def test_everything_is_reached_by_keyboard(page: WebDriver) -> None:
    """Menu, search, boxes and graph in the order of the tab key; arrows walk through the calls, Enter zooms."""
    press(page, Keys.TAB, Keys.DOWN)
    wait_for_text(page, "#said", "all requests, 7.50 s, 100.0 %")
    press(page, Keys.DOWN, Keys.DOWN)
    wait_for_text(page, "#said", "all requests, 0.50 s, 100.0 %")
    press(page, Keys.HOME)
    wait_for_text(page, "#said", "all requests, 10.00 s, 100.0 %")
    press(page, Keys.TAB, Keys.TAB, Keys.SPACE)
    wait_for_text(page, "#said", "all requests, 1.50 s, 100.0 %")
    press(page, Keys.SPACE, Keys.TAB, Keys.TAB, Keys.TAB)
    assert page.switch_to.active_element.get_attribute("id") == "graph"
    press(page, Keys.DOWN, Keys.RIGHT)
    assert said(page) == "POST /pay, 2.00 s, 20.0 %"
    press(page, Keys.DOWN, Keys.DOWN, Keys.DOWN, Keys.DOWN, Keys.RIGHT)
    assert said(page) == "on a CPU, 0.00 s, 0.0 %"
    press(page, Keys.LEFT, Keys.UP, Keys.ENTER)
    at(page, 0, 0.5).perform()
    wait_for_text(page, "#tip", "all requests")
    at(page, 4, 0.02).perform()
    wait_for_text(page, "#tip", "sleep, <frozen x>")
    press(page, Keys.ESCAPE)
    assert said(page) == "all requests, 10.00 s, 100.0 %"


def test_a_search_adds_up_what_it_finds_and_marks_it(page: WebDriver) -> None:
    """From everywhere by its key; a call within another one that was found is not counted twice."""
    before = colours(page)
    press(page, "/", "SHOP.PY:9")
    wait_for_text(page, "#found", "8.00 s, 80.0 %")
    assert len(colours(page) - before) >= 1
    press(page, Keys.ESCAPE)
    wait_until(lambda: page.find_element(By.ID, "found").text == "", "it is over")
    assert colours(page) == before
    page.find_element(By.CSS_SELECTOR, "#lines button").click()
    wait_for_text(page, "#found", "8.00 s, 80.0 %")


def test_the_table_has_the_hottest_own_lines(page: WebDriver) -> None:
    """Seconds, share, line, function, and what was mostly waited for there, of the route that is chosen."""
    assert columns(page) == [
        ["8.00", "80.0 %", "shop.py:9", "load", "postgresql 10.0.0.5:5432"],
        ["1.50", "15.0 %", "shop.py:4", "view", "CPU"],
        ["0.50", "5.0 %", "</script>.py:1", "<b>run</b>", "lock"],
    ]
    page.find_element(By.ID, "route").send_keys("POST")
    wait_until(lambda: columns(page) == [["2.00", "100.0 %", "shop.py:9", "load", "sleep"]], "one route alone")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 360])
def test_it_is_drawn_on_every_screen_and_keeps_nobody_out(page: WebDriver, scheme: str, width: int) -> None:
    """axe-core finds nothing; own code, libraries, waits and routes have a colour each; the page is never too wide."""
    page.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    )
    try:
        page.refresh()
        wait_for_text(page, "#said", "all requests")
        assert violations(page) == []
        assert len(colours(page)) >= 4
        assert page.execute_script("return document.documentElement.scrollWidth") <= width
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def large() -> Recording:
    """A recording whose page has five million bytes."""

    def frame(depth: int, number: int) -> Frame:
        own = depth % 3 == 1
        folder = "/srv/shop" if own else "/srv/.venv/lib/python3.13/site-packages/django"
        return Frame(f"{folder}/module_{number % 40}.py", depth * 50 + number, f"function_{depth}_{number}")

    stacks = [
        RecordedStack(
            f"GET /route/{index % 40}/:",
            1,
            4711,
            ("CPU", "GIL", "lock", "postgresql 10.0.0.5:5432")[index % 4],
            tuple(frame(depth, (index // 3 ** max(0, 12 - depth)) % 12) for depth in range(20 + index % 40)),
            is_cut=False,
            seconds=0.01,
            samples=1,
        )
        for index in range(24_000)
    ]
    return RECORDING._replace(stacks=tuple(stacks))


@pytest.mark.parametrize(
    ("by", "first"), [("worker", "worker 1 (pid 4711), 8.00 s"), ("wait", "waits for postgresql 10.0.0.5:5432, 6.00 s")]
)
def test_the_graph_may_begin_with_worker_or_wait(driver: WebDriver, folder: str, by: str, first: str) -> None:
    """The route comes below it."""
    driver.get(written(RECORDING, folder, by, "--by", by).as_uri())
    wait_for_text(driver, "#said", "all requests, 9.50 s, 100.0 %")
    at(driver, 0, 0.5).click().perform()
    press(driver, Keys.DOWN)
    assert said(driver).startswith(first)
    press(driver, Keys.DOWN)
    assert said(driver).startswith("GET /orders/:, 6.00 s")
    assert complaints(driver) == []


@pytest.mark.parametrize("last", ["not known", "on a CPU, place unknown"])
def test_a_last_row_that_is_no_wait_is_not_called_one(driver: WebDriver, folder: str, last: str) -> None:
    """Recordings from inside have such rows."""
    stack = RECORDING.stacks[0]._replace(waits_for=last)
    driver.get(written(RECORDING._replace(stacks=(stack,)), folder, "last", "--by", "wait").as_uri())
    at(driver, 1, 0.5).click().perform()
    assert said(driver) == f"{last}, 6.00 s, 100.0 %"


def test_the_page_may_show_the_cpu_only_at_first(driver: WebDriver, folder: str) -> None:
    """Its head is of all that was recorded, and the box brings the rest back."""
    driver.get(written(RECORDING, folder, "cpu", "--cpu").as_uri())
    wait_for_text(driver, "#said", "all requests, 1.50 s, 100.0 %")
    assert "9.5 s of their time, 84% of it waiting" in driver.find_element(By.TAG_NAME, "main").text
    driver.find_element(By.ID, "cpu").click()
    wait_for_text(driver, "#said", "all requests, 9.50 s, 100.0 %")
    assert complaints(driver) == []


def test_a_line_of_the_table_is_found_and_no_other_one(driver: WebDriver, folder: str) -> None:
    """Line 4 is not line 41."""
    stack = RECORDING.stacks[0]
    other = stack._replace(frames=(stack.frames[0]._replace(lineno=41),), seconds=1.0)
    driver.get(
        written(RECORDING._replace(stacks=(stack._replace(frames=stack.frames[:1]), other)), folder, "lines").as_uri()
    )
    driver.find_element(By.CSS_SELECTOR, "#lines button").click()
    wait_for_text(driver, "#found", "6.00 s, 85.7 %")
    press(driver, "/", Keys.ESCAPE, "10.0.0.5:5432")
    wait_for_text(driver, "#found", "7.00 s, 100.0 %")
    assert complaints(driver) == []


def test_five_million_bytes_are_drawn(driver: WebDriver, folder: str) -> None:
    """All of it is there, and found by a search."""
    path = written(large(), folder, "large")
    assert path.stat().st_size > 5_000_000
    driver.get(path.as_uri())
    wait_for_text(driver, "#said", "all requests, 240.00 s, 100.0 %")
    assert len(colours(driver)) >= 4
    press(driver, "/", "n_0_")
    wait_for_text(driver, "#found", "240.00 s, 100.0 %")
    assert complaints(driver) == []

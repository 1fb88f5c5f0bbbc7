"""What others make of the files of ``wsgi-tb record``: speedscope from npm, and the pprof of Go."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.browser import chromium, complaints, wait_for_text
from tests.support.programs import PROJECT, require_file, require_program
from tests.unit.wire.profiles.recordings import RECORDING
from wsgi_tracebacker.wire.profiles import raw

if TYPE_CHECKING:
    from collections.abc import Iterator

    from selenium.webdriver.chrome.webdriver import WebDriver

pytestmark = pytest.mark.slow

#: ``make test-all`` installs it there.
_SPEEDSCOPE = Path(sys.prefix) / "speedscope" / "node_modules" / "speedscope" / "dist" / "release" / "index.html"


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="tb-", dir="/tmp", ignore_cleanup_errors=True) as found:
        yield Path(found)


def written(folder: Path, ending: str) -> Path:
    """The recording in one form, as the command makes it."""
    source, target = folder / "recorded.jsonl", folder / f"recorded{ending}"
    source.write_text("".join(f"{line}\n" for line in raw.lines(RECORDING)), encoding="utf-8")
    command = [sys.executable, "-m", "wsgi_tracebacker", "record", "--from", str(source), "-o", str(target)]
    subprocess.run(command, cwd=PROJECT, check=True, capture_output=True)
    return target


def opened(driver: WebDriver, path: Path) -> None:
    """Open a file in speedscope, as its own command does."""
    content = base64.b64encode(path.read_bytes()).decode()
    script = path.with_suffix(".js")
    script.write_text(f"speedscope.loadFileFromBase64({json.dumps(path.name)}, {json.dumps(content)})")
    driver.get(f"{require_file(_SPEEDSCOPE).as_uri()}#localProfilePath={script}")


def test_speedscope_imports_both_of_its_forms(folder: Path) -> None:
    """Its own: all requests, then the two routes; and that of pprof."""
    with chromium(folder) as driver:
        opened(driver, written(folder, ".speedscope.json"))
        wait_for_text(driver, "body", "all requests (1/3)")
        assert driver.title == "shop:app, 6.3 s - speedscope"
        driver.get("about:blank")
        opened(driver, written(folder, ".pb.gz"))
        wait_for_text(driver, "body", "recorded.pb.gz")
        wait_for_text(driver, "body", "Left Heavy")
        assert [each for each in complaints(driver) if each.startswith("SEVERE")] == []


def test_the_pprof_of_go_decodes_ours(folder: Path) -> None:
    """Each call with its seconds, and the labels."""
    pprof = [require_program("go"), "tool", "pprof"]
    path = str(written(folder, ".pb.gz"))

    def said(*options: str) -> str:
        environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "PPROF_TMPDIR": str(folder), "TZ": "UTC"}
        return subprocess.run(
            [*pprof, *options, path], check=True, capture_output=True, text=True, env=environment
        ).stdout

    top = [line.split() for line in said("-top", "-cum", "-unit=seconds", "-nodefraction=0").splitlines()]
    assert {(line[3], " ".join(line[5:])) for line in top if len(line) > 5} >= {
        ("9.50s", "view"),
        ("8s", "load"),
        ("7.50s", "GET /orders/:"),
        ("6s", "postgresql 10.0.0.5:5432"),
    }
    tags = said("-tags", "-unit=seconds")
    for label in ("route: Total", "worker: Total", "host: Total", "waits_for: Total", "POST /pay", "web-1"):
        assert label in tags

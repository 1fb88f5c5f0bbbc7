"""wsgi-tb top as a command: its text, its JSON lines, and what it says where something is missing."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from tests.unit.analysis.served import serving, snapshot
from wsgi_tracebacker.cli.group import cli
from wsgi_tracebacker.cli.verbs import top as command
from wsgi_tracebacker.errors import LibraryMissing, WorkerTimedOut
from wsgi_tracebacker.reader import survey as surveys
from wsgi_tracebacker.reader.finding.discovery import Target
from wsgi_tracebacker.reader.survey import Answer, Survey
from wsgi_tracebacker.top import readings

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

ALIVE = snapshot(serving("/größe", 12.0, request_id="7f3a"))
TARGET = Target("/run/tb1", 1, 1, None, None, 0)
SILENT = Answer(
    TARGET._replace(socket="/run/tb2", number=2), "busy", None, WorkerTimedOut("it did not answer"), 2, 4002
)
FOUND = Survey((Answer(TARGET, "alive", ALIVE, None, 1, 4001), SILENT), ())


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> list[float | None]:
    """The time limits of the surveys; nobody is really asked, and no time passes."""
    limits: list[float | None] = []

    def ask(_bases: object, timeout_seconds: float | None, *_: object, **__: object) -> Survey:
        limits.append(timeout_seconds)
        return FOUND

    monkeypatch.setattr(surveys, "survey", ask)
    monkeypatch.setattr(readings, "survey", ask)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    monkeypatch.delenv("COLUMNS", raising=False)
    return limits


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["top", *arguments], standalone_mode=False)


def test_once_prints_the_screen_and_names_who_did_not_answer(asked: list[float | None]) -> None:
    """Two readings, and the exit code of every verb."""
    result = run("--once")
    head, titles, *rows = result.stdout.splitlines()
    assert "2 workers: 1 alive 1 busy" in head
    assert titles.split()[:3] == ["AGE", "W:C", "REQUEST"]
    assert len(rows) == 2
    assert "GET /größe" in rows[0]
    assert "worker 2" in result.stderr
    assert result.return_value == 1
    assert asked == [command.DEFAULT_TIMEOUT_SECONDS] * 2


def test_the_screen_fits_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """COLUMNS counts in a pipe too."""
    monkeypatch.setenv("COLUMNS", "60")
    for name in command.VIEW_NAMES:
        _, *table = run("--once", "--view", name).stdout.splitlines()
        assert max(map(len, table)) <= 60


def test_a_json_line_has_what_a_row_has() -> None:
    """A request's line; a worker without an answer has none."""
    [line] = run("--once", "--format", "jsonl").stdout.splitlines()
    facts = json.loads(line)
    # Of two readings: it is as much older as time has passed.
    assert facts["age_seconds"] == pytest.approx(12.0, abs=0.5)
    assert (facts["path"], facts["request_id"]) == ("/größe", "7f3a")
    assert (facts["filename"], facts["lineno"], facts["function"]) == ("/srv/shop/orders.py", 71, "load_order")


def test_without_textual_a_line_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The text and the JSON lines do without."""
    monkeypatch.delitem(sys.modules, "wsgi_tracebacker.top.app", raising=False)
    monkeypatch.setitem(sys.modules, "textual.app", None)
    monkeypatch.setitem(sys.modules, "rich.text", None)
    error = run().exception
    assert isinstance(error, LibraryMissing)
    assert "pip install 'wsgi-tracebacker[top]'" in str(error)
    assert run("--once").return_value == 1


def test_a_reading_is_written_to_a_new_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never to one that is there: two within a second are an error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(time, "strftime", lambda form: form.replace("%Y%m%d-%H%M%S", "1"))
    name = command.write(FOUND)
    written = tmp_path / name
    assert [worker["worker"]["pid"] for worker in json.loads(written.read_bytes())["workers"]] == [4001]
    assert written.stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        command.write(FOUND)

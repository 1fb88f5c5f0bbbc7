"""Our log lines are never lost, whatever the application did to its logging."""

from __future__ import annotations

import io
import logging
import logging.config
import logging.handlers
import queue
import sys
import threading
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from wsgi_tracebacker.worker.reporting import logs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

NAME = logs.HARAKIRI


class Collecting(logging.Handler):
    def __init__(self, error: BaseException | None = None) -> None:
        super().__init__()
        self.error = error
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
        if self.error is not None:
            raise self.error


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    logger = logging.getLogger(NAME)
    # Every other logger too: dictConfig disables all that exist, and tests after this one listen to some of them.
    enabled = [one for one in logging.Logger.manager.loggerDict.values() if not getattr(one, "disabled", True)]
    yield
    logger.propagate, logger.disabled, logger.handlers = True, False, []
    for one in enabled:
        assert isinstance(one, logging.Logger)
        one.disabled = False


def alone(*handlers: logging.Handler) -> None:
    """Only these handlers: pytest adds its own when the test begins."""
    logger = logging.getLogger(NAME)
    logger.propagate, logger.handlers = False, list(handlers)


def say(*handlers: logging.Handler) -> None:
    alone(*handlers)
    logs.emit(NAME, logging.ERROR, "harakiri: %s", "GET /x 1 s", content={"kind": "harakiri"})


def test_a_handler_gets_the_record(capfd: pytest.CaptureFixture[str]) -> None:
    """The record has the template as its message, and the structured content under one key."""
    handler = Collecting()
    say(handler)
    [record] = handler.records
    assert (record.name, record.levelname, record.msg) == (NAME, "ERROR", "harakiri: %s")
    assert record.getMessage() == "harakiri: GET /x 1 s"
    assert vars(record)[logs.EXTRA_KEY] == {"kind": "harakiri"}
    assert capfd.readouterr().err == ""


LINE = f"ERROR {NAME}: harakiri: GET /x 1 s\n"


def test_without_a_handler_it_is_on_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    """The line is on stderr once."""
    say()
    assert capfd.readouterr().err == LINE


def test_a_handler_that_does_nothing_is_none(capfd: pytest.CaptureFixture[str]) -> None:
    """Libraries have a NullHandler; a report must not be lost there."""
    say(logging.NullHandler())
    assert capfd.readouterr().err == LINE


def test_disabled_by_dictconfig(capfd: pytest.CaptureFixture[str]) -> None:
    """By default it disables existing loggers; a report is on stderr nevertheless."""
    logging.getLogger(NAME)
    logging.config.dictConfig({"version": 1})
    assert logging.getLogger(NAME).disabled
    say()
    assert capfd.readouterr().err == LINE


def test_who_listens_to_all_loggers_hears_a_lost_one(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Sentry adds no handler: it patches Logger.callHandlers."""
    heard: list[Any] = []
    original = logging.Logger.callHandlers

    def patched(self: logging.Logger, record: logging.LogRecord) -> None:
        heard.append((record.name, vars(record)[logs.EXTRA_KEY]))
        original(self, record)

    monkeypatch.setattr(logging.Logger, "callHandlers", patched)
    say()
    assert heard == [(NAME, {"kind": "harakiri"})]
    assert capfd.readouterr().err == LINE


def test_a_handler_that_raises(capfd: pytest.CaptureFixture[str]) -> None:
    """stderr has the report, and why it was not logged."""
    say(Collecting(OSError("disk full")))
    err = capfd.readouterr().err
    assert err.startswith(LINE)
    assert "OSError: disk full" in err


@pytest.mark.parametrize("stderr", [None, io.StringIO()])
def test_stderr_was_taken_away(
    stderr: io.StringIO | None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """sys.stderr is None under some servers, and replaced or closed by some applications: we use the descriptor."""
    if stderr is not None:
        stderr.close()
    monkeypatch.setattr(sys, "stderr", stderr)
    say()
    monkeypatch.undo()
    assert capfd.readouterr().err == LINE


def test_a_handler_on_a_closed_stream(capfd: pytest.CaptureFixture[str]) -> None:
    """Descriptor 2 may be closed by daemons and reloaders; nothing is raised."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    stream.close()
    say(handler)
    assert "GET /x 1 s" in capfd.readouterr().err


def test_the_exception_that_is_handled(capfd: pytest.CaptureFixture[str]) -> None:
    """The traceback is below the line."""
    alone()
    try:
        raise KeyError("k")
    except KeyError as error:
        logs.emit(NAME, logging.ERROR, "a fault", exception=error)
    err = capfd.readouterr().err
    assert err.startswith(f"ERROR {NAME}: a fault\nTraceback (most recent call last):\n")
    assert err.endswith("KeyError: 'k'\n")


def test_what_utf8_cannot_say_is_escaped(capfd: pytest.CaptureFixture[str]) -> None:
    """A lone surrogate in a path does not cost the line."""
    logs.write_to_stderr("/\udcff")
    assert capfd.readouterr().err == "/\\udcff\n"


def test_a_thread_that_python_did_not_start_leaves_no_dummy() -> None:
    """A record reads the current thread's name, which makes a dummy thread; none is left."""
    import _thread

    handler = Collecting()
    done = threading.Lock()
    done.acquire()

    def run() -> None:
        say(handler)
        done.release()

    _thread.start_new_thread(run, ())
    assert done.acquire(timeout=10)
    assert len(handler.records) == 1
    assert not [thread for thread in threading.enumerate() if type(thread).__name__ == "_DummyThread"]


def test_nothing_is_raised(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """Nothing is raised, not even if logging itself is broken."""

    def broken(name: str) -> NoReturn:
        raise RuntimeError("no loggers today")

    alone()
    monkeypatch.setattr(logging, "getLogger", broken)
    logs.emit(NAME, logging.ERROR, "GET /x 1 s")
    monkeypatch.undo()
    assert "GET /x 1 s" in capfd.readouterr().err


#: A latin-1 file can hold the first character, an ASCII file none.
FOREIGN = "GET /caf\u00e9/\u0441\u043b\u043e\u0432\u043e"
ESCAPED = r"GET /caf\xe9/\u0441\u043b\u043e\u0432\u043e"


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "utf-8"])
@pytest.mark.parametrize("delay", [False, True], ids=["open", "delayed"])
@pytest.mark.parametrize(
    "kind",
    [
        logging.FileHandler,
        logging.handlers.WatchedFileHandler,
        logging.handlers.RotatingFileHandler,
        logging.handlers.TimedRotatingFileHandler,
    ],
)
def test_a_file_of_any_encoding_gets_the_line(
    kind: Callable[..., logging.FileHandler],
    encoding: str,
    delay: bool,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """What its encoding has not is escaped; UTF-8 keeps all."""
    path = tmp_path / "app.log"
    handler = kind(path, encoding=encoding, delay=delay)
    alone(handler)
    logs.emit(NAME, logging.ERROR, "harakiri: %s, pid %d", FOREIGN, 1)
    handler.close()
    expected = FOREIGN if encoding == "utf-8" else ESCAPED
    assert path.read_text(encoding=encoding) == f"harakiri: {expected}, pid 1\n"
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("between", ["memory", "queue"])
def test_a_file_behind_another_handler_gets_the_line(between: str, tmp_path: Path) -> None:
    """A handler may hand the record over, at once or on another thread."""
    path = tmp_path / "app.log"
    file = logging.FileHandler(path, encoding="ascii")
    if between == "memory":
        memory = logging.handlers.MemoryHandler(1, target=file)
        alone(memory)
        logs.emit(NAME, logging.ERROR, "harakiri: %s", FOREIGN)
        memory.close()
    else:
        records: queue.SimpleQueue[Any] = queue.SimpleQueue()
        listener = logging.handlers.QueueListener(records, file)
        alone(logging.handlers.QueueHandler(records))
        listener.start()
        logs.emit(NAME, logging.ERROR, "harakiri: %s", FOREIGN)
        listener.stop()
    file.close()
    assert path.read_text(encoding="ascii") == f"harakiri: {ESCAPED}\n"


def test_an_exception_is_escaped_as_well(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The handler would format it itself."""
    path = tmp_path / "app.log"
    handler = logging.FileHandler(path, encoding="ascii")
    alone(handler)
    logs.emit(NAME, logging.ERROR, "on_harakiri raised", exception=ValueError(FOREIGN))
    handler.close()
    assert path.read_text(encoding="ascii") == f"on_harakiri raised\nValueError: {ESCAPED}\n"
    assert capfd.readouterr().err == ""


def test_what_programs_get_keeps_the_characters() -> None:
    """The record's message is escaped for a handler of which nothing is known; its content is not."""
    handler = Collecting()
    alone(handler)
    logs.emit(NAME, logging.ERROR, "harakiri: %s", FOREIGN, content={"path": FOREIGN})
    [record] = handler.records
    assert (record.msg, record.getMessage()) == ("harakiri: %s", f"harakiri: {ESCAPED}")
    assert vars(record)[logs.EXTRA_KEY] == {"path": FOREIGN}


@pytest.mark.parametrize("broken", ["no codec", None, "raises"])
def test_a_stream_of_the_application_gets_what_is_safe(broken: str | None) -> None:
    """One with an encoding that is no codec's, without any, or that raises when it is asked."""

    class Stream:
        written = ""

        @property
        def encoding(self) -> str | None:
            if broken == "raises":
                raise RuntimeError
            return broken

        def write(self, text: str) -> None:
            assert text.isascii()
            self.written += text

    stream = Stream()
    alone(logging.StreamHandler(stream))
    logs.emit(NAME, logging.ERROR, "harakiri: %s", FOREIGN)
    assert stream.written == f"harakiri: {ESCAPED}\n"

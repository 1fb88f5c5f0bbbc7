"""Sentry's SDK, OpenTelemetry's and a JSON formatter take a report as it is."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

import opentelemetry.sdk._logs as otel_logs
import opentelemetry.sdk._logs.export as otel_export
import pytest
import sentry_sdk
from sentry_sdk.integrations.logging import LoggingIntegration
from sentry_sdk.transport import Transport

from tests.support.waiting import wait_until
from tests.unit.wsgi import environ, serve
from wsgi_tracebacker import HarakiriReport, TracebackerMiddleware

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from _typeshed.wsgi import StartResponse, WSGIEnvironment
    from sentry_sdk.envelope import Envelope

KEY = "wsgi_tracebacker"
TOP_LEVEL = {
    *("kind", "outcome", "action", "request", "deadline", "worker", "verdict", "timeline", "thread", "others"),
}


def overdue(base: str, is_over: Callable[[], object]) -> HarakiriReport:
    """Serve an overdue request until its report has arrived."""
    reports: list[HarakiriReport] = []

    def hang_for_the_test(_: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        wait_until(lambda: reports and is_over(), "the report has come")
        start_response("200 OK", [])
        return [b""]

    application = TracebackerMiddleware(hang_for_the_test, base, harakiri=0.3, on_harakiri=reports.append)
    assert serve(application, environ("/annual/é", HTTP_X_REQUEST_ID="7f3a")).error is None
    return reports[0]


@pytest.fixture
def handle() -> Iterator[Callable[[logging.Handler], None]]:
    """Add a handler to the package's logger for one test."""
    logger = logging.getLogger("wsgi_tracebacker")
    handlers: list[logging.Handler] = []

    def add(handler: logging.Handler) -> None:
        handlers.append(handler)
        logger.addHandler(handler)

    yield add
    for handler in handlers:
        logger.removeHandler(handler)
        handler.close()


class JSONLines(logging.Handler):
    """Writes what JSON formatters write: the message, and the attributes of a record beyond the usual."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        usual = vars(logging.makeLogRecord({}))
        extra = {key: value for key, value in vars(record).items() if key not in usual and key != "message"}
        self.lines.append(json.dumps({"message": record.getMessage(), **extra}))


def test_a_json_formatter(base: str, handle: Callable[[logging.Handler], None]) -> None:
    """The whole report is under the one key, and JSON can encode it as it is."""
    handler = JSONLines()
    handle(handler)
    report = overdue(base, lambda: handler.lines)
    found = json.loads(handler.lines[0])
    assert set(found) - {"taskName"} == {"message", KEY}
    assert found["message"].startswith("harakiri: GET /annual/")
    assert set(found[KEY]) == TOP_LEVEL
    assert found[KEY]["request"]["path"] == report.request.path
    assert found[KEY]["request"]["request_id"] == "7f3a"
    assert found[KEY]["thread"]["frames"][-1]["function"].rpartition(".")[2] == "wait_until"


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "utf-8"])
def test_a_log_file_of_any_encoding(
    encoding: str, base: str, handle: Callable[[logging.Handler], None], tmp_path: Path
) -> None:
    """It gets the whole report, as it gets the application's own lines."""
    path = tmp_path / "app.log"
    handle(logging.FileHandler(path, encoding=encoding))
    # The last line of a report.
    overdue(base, lambda: "in flight in this worker" in path.read_text(encoding=encoding))
    logged = path.read_text(encoding=encoding)
    # A loaded machine may have logged a line on a stall before it.
    begins = r"harakiri: GET /annual/\xe9" if encoding == "ascii" else "harakiri: GET /annual/"
    assert any(line.startswith(begins) for line in logged.splitlines())
    assert "Stack (most recent call last):" in logged


class Collecting(Transport):
    def __init__(self, options: Any = None) -> None:
        super().__init__(options)
        self.events: list[Any] = []

    def capture_envelope(self, envelope: Envelope) -> None:
        event = envelope.get_event()
        if event is not None:
            self.events.append(event)


@pytest.fixture
def sentry() -> Iterator[Collecting]:
    """Real Sentry with its integration for logging; nothing leaves the process, and after the test it is off."""
    transport = Collecting()
    sentry_sdk.init(
        dsn="http://key@127.0.0.1:9/1",
        transport=transport,
        default_integrations=False,
        auto_enabling_integrations=False,
        integrations=[LoggingIntegration()],
    )
    yield transport
    sentry_sdk.get_client().close(timeout=0)
    # It patches Logger.callHandlers once a process; without a client that does nothing.
    sentry_sdk.get_global_scope().set_client(None)


@pytest.mark.parametrize("has_handlers", [True, False])
def test_sentry(has_handlers: bool, base: str, sentry: Collecting, monkeypatch: pytest.MonkeyPatch) -> None:
    """One event, grouped by its template, has every part of the report, also if there is no other handler."""
    if not has_handlers:
        logger = logging.getLogger("wsgi_tracebacker.harakiri")
        monkeypatch.setattr(logger, "propagate", False)
        monkeypatch.setattr(logger, "handlers", [])
    report = overdue(base, lambda: sentry.events)
    event = sentry.events[0]
    assert (event["level"], event["logger"]) == ("error", "wsgi_tracebacker.harakiri")
    assert event["logentry"]["message"] == "harakiri: %s"
    assert "Stack (most recent call last):" in event["logentry"]["formatted"]
    extra = event["extra"][KEY]
    assert set(extra) == TOP_LEVEL
    assert extra["request"]["path"] == report.request.path
    assert extra["deadline"]["limit_seconds"] == 0.3
    assert extra["verdict"]["kind"] == report.verdict.kind
    assert extra["timeline"]
    assert extra["thread"]["frames"]


def in_memory_exporter() -> Any:
    # Renamed in 1.39.
    name = "InMemoryLogRecordExporter" if hasattr(otel_export, "InMemoryLogRecordExporter") else "InMemoryLogExporter"
    return getattr(otel_export, name)()


# The handler moves to another package, which brings instrumentation with it; here it is the same one.
@pytest.mark.filterwarnings("ignore:.*LoggingHandler.*:DeprecationWarning")
def test_opentelemetry(base: str, handle: Callable[[logging.Handler], None]) -> None:
    """One log record; the report is one attribute, with its structure."""
    exporter = in_memory_exporter()
    provider = otel_logs.LoggerProvider(shutdown_on_exit=False)
    provider.add_log_record_processor(otel_export.SimpleLogRecordProcessor(exporter))
    handle(otel_logs.LoggingHandler(logger_provider=provider))
    report = overdue(base, exporter.get_finished_logs)
    record = exporter.get_finished_logs()[0].log_record
    assert record.severity_text == "ERROR"
    assert str(record.body).startswith("harakiri: GET /annual/")
    found = record.attributes[KEY]
    assert set(found) == TOP_LEVEL
    assert found["request"]["path"] == report.request.path
    assert found["verdict"]["kind"] == report.verdict.kind
    assert found["thread"]["frames"][-1]["function"].rpartition(".")[2] == "wait_until"
    provider.shutdown()

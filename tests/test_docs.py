"""The documentation says what the code does: every name is in it, every link leads somewhere, every output is real."""

from __future__ import annotations

import ast
import builtins
import inspect
import json
import os
import re
import struct
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pytest

import wsgi_tracebacker
from docs import record
from tests.support.programs import PROJECT, require_program
from wsgi_tracebacker import TracebackerMiddleware, errors
from wsgi_tracebacker.analysis import live, metrics
from wsgi_tracebacker.cli import group as verbs
from wsgi_tracebacker.cli import output
from wsgi_tracebacker.cli.verbs import top as top_command
from wsgi_tracebacker.model.card import Card
from wsgi_tracebacker.model.metrics import Counts, Measured
from wsgi_tracebacker.model.report import (
    ACTIONS,
    HarakiriReport,
    HubReport,
    LostRequest,
    OtherRequest,
    Postmortem,
    Span,
    StallReport,
    Verdict,
)
from wsgi_tracebacker.model.snapshot import (
    SCHEMA,
    Counters,
    Frame,
    HubState,
    LastRequest,
    ListenSocket,
    Request,
    Snapshot,
    Stack,
    Worker,
)
from wsgi_tracebacker.model.waits import KINDS as KINDS_OF_WAITING
from wsgi_tracebacker.model.waits import Holder, WaitsFor
from wsgi_tracebacker.reader.asking import client
from wsgi_tracebacker.reader.dead import postmortems
from wsgi_tracebacker.reader.finding import discovery, processes
from wsgi_tracebacker.reader.unanswered import stall
from wsgi_tracebacker.top import app as top_app
from wsgi_tracebacker.top import views as top_views
from wsgi_tracebacker.wire import http10 as http
from wsgi_tracebacker.wire.black_box import dead_table, file_names, table_header, table_rows
from wsgi_tracebacker.wire.documents import card_json as card_format
from wsgi_tracebacker.wire.documents import postmortem_json as postmortem_format
from wsgi_tracebacker.wire.documents import report_json
from wsgi_tracebacker.wire.documents import snapshot_json as json_format
from wsgi_tracebacker.worker import startup_warnings
from wsgi_tracebacker.worker.blackbox import box_files, stacks_file
from wsgi_tracebacker.worker.deadlines import publisher, slow_request
from wsgi_tracebacker.worker.deadlines.raising import timeout_delivery
from wsgi_tracebacker.worker.deadlines.recording import recorder
from wsgi_tracebacker.worker.deadlines.timers import kill_timer
from wsgi_tracebacker.worker.listening import listener
from wsgi_tracebacker.worker.listening.client import CONNECTION_SECONDS
from wsgi_tracebacker.worker.options import option_values, settings
from wsgi_tracebacker.worker.reporting import logs, reporter
from wsgi_tracebacker.worker.tracking.handle import HANDLE_KEY, RequestHandle
from wsgi_tracebacker.worker.waits.frames.known_frames import KNOWN

if TYPE_CHECKING:
    from collections.abc import Iterator

DOCS = PROJECT / "docs"
PAGES = sorted([*PROJECT.glob("*.md"), *DOCS.rglob("*.md")])

REQUEST = Request(
    *("GET", "/", None, None, None, 0.0, 0.0, "app"),
    waits_for=WaitsFor("lock", holders=(Holder("GET", "/", 0.0),)),
)
SNAPSHOT = Snapshot(
    worker=Worker(),
    taken_at=0.0,
    stacks=(Stack("a", request=REQUEST, last_request=LastRequest("GET", "/", 0.0), frames=(Frame("a.py", 1, "f"),)),),
)


def reference(name: str) -> str:
    return (DOCS / "reference" / f"{name}.md").read_text()


def rows(page: str) -> dict[str, list[str]]:
    """The rows of all tables of a page, by their first cell's code words."""
    found: dict[str, list[str]] = {}
    for line in page.splitlines():
        if line.startswith("|"):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            for word in re.findall(r"`([^`]+)`", cells[0]) or [cells[0]]:
                found.setdefault(word, []).append(" | ".join(cells[1:]))
    return found


def section(page: str, heading: str) -> str:
    """What stands below a heading, up to the next one of any level."""
    return re.split(r"^#+ .*$", page.split(f" {heading}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def all_keys(document: Any) -> Iterator[str]:
    if isinstance(document, dict):
        for key, value in document.items():
            yield key
            yield from all_keys(value)
    elif isinstance(document, list):
        for item in document:
            yield from all_keys(item)


# --------------------------------------------------------------------------------------------------------- reference


def test_every_option_of_the_middleware_is_in_the_reference() -> None:
    """Each option has a row, and no other name has, in which its environment variable stands."""
    documented = rows(section(reference("options"), "Options of the middleware"))
    options = set(inspect.signature(TracebackerMiddleware.__init__).parameters) - {"self", "app", "unknown"}
    assert set(documented) - {"option", "---"} == options
    for option in options:
        assert settings.ENVIRONMENT_VARIABLES.get(option, "none") in documented[option][0].split(" | ")[0]


def test_defaults_and_the_switch_are_in_the_reference() -> None:
    """The default base, the variable that switches everything off, and the limit of the path's length are named."""
    page = reference("options")
    limit = card_format.MAX_SOCKET_PATH_BYTES - card_format.MAX_NUMBER_DIGITS
    assert f"`{settings.DEFAULT_SOCKET}`" in rows(page)["socket"][0]
    assert f"`{settings.DISABLE_VARIABLE}`" in page
    assert f"longer than {limit} bytes" in page
    assert f"has at most {card_format.MAX_SOCKET_PATH_BYTES}" in page


def test_every_verb_and_every_option_of_the_command_is_in_the_reference() -> None:
    """Each verb has a section, and each of its options, under all of its names, a row in it."""
    page = reference("command")
    context = click.Context(verbs.cli)
    for verb in verbs.cli.list_commands(context):
        text = section(page, f"wsgi-tb {verb}")
        command = verbs.cli.get_command(context, verb)
        assert command is not None
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                for name in parameter.opts:
                    assert re.search(rf"`{name}\b", text), f"{verb} {name}"
            if isinstance(parameter.type, click.Choice):
                for choice in parameter.type.choices:
                    assert choice in text, f"{verb} {parameter.name} {choice}"
    for parameter in verbs.cli.params:
        for name in parameter.opts:
            assert f"`{name}`" in page


def test_every_metric_is_in_the_reference() -> None:
    """With its labels, its type, and the services that requests wait for; and each alert is in the how-to."""
    page = reference("metrics")
    documented = rows(page)
    counts = Counts(0, 0, 0, 0, harakiri=((("log", "waiting"), 0),))
    worker = Worker(number=1, listen=(ListenSocket(1, "tcp", "a", 0, 0),))
    measured = Measured("/tb", 1, "alive", Snapshot(worker, 0.0, ()), counts, 0, 0.0)
    families = metrics.families([measured])
    for family in families:
        [row] = documented[family.name]
        if ("worker", "1") in family.samples[0].labels:
            assert row.startswith(family.kind), family.name
        for label in {name for sample in family.samples for name, _ in sample.labels} - {"base", "worker"}:
            assert f"`{label}`" in row, family.name
    assert {name for name in documented if name.startswith("wsgi_tb_")} == {family.name for family in families}
    for service in metrics.SERVICES:
        assert f"`{service}`" in section(page, "What requests wait for")
    alerts = re.findall(r"alert: (\w+)", (DOCS / "prometheus-alerts.yml").read_text())
    how_to = (DOCS / "howto" / "prometheus.md").read_text()
    assert alerts == [word for word in rows(how_to) if word.startswith("Wsgi")]


def test_every_exit_code_is_in_the_reference() -> None:
    """Whatever number the command may end with has a row."""
    tree = [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, errors.TracebackerError)]
    codes = {cls.exit_code for cls in tree} | {0, output.EXIT_UNANSWERED, click.UsageError.exit_code}
    interrupted = output.EXIT_INTERRUPTED
    assert {int(code) for code in rows(section(reference("command"), "Exit codes")) if code.isdigit()} == {
        *codes,
        interrupted,
    }


def test_every_reason_is_in_the_reference() -> None:
    """Each word that says why a worker did not answer has a row."""
    documented = rows(reference("command"))
    for cls in vars(errors).values():
        if isinstance(cls, type) and issubclass(cls, errors.WorkerUnreachable):
            assert cls.reason in documented


def test_every_key_of_the_json_documents_is_in_the_reference() -> None:
    """What a worker writes, and what the command puts around it, has a row for each key and no other."""
    page = reference("json")
    snapshot = json.loads(json_format.encode(SNAPSHOT))
    for heading, document in (
        ("The snapshot", snapshot),
        ("worker", snapshot["worker"]),
        ("thread", snapshot["threads"][0]),
        ("request", snapshot["threads"][0]["request"]),
        ("waits_for", snapshot["threads"][0]["request"]["waits_for"]),
        ("holder", snapshot["threads"][0]["request"]["waits_for"]["holders"][0]),
        ("last_request", snapshot["threads"][0]["last_request"]),
        ("frame", snapshot["threads"][0]["frames"][0]),
    ):
        assert set(rows(section(page, heading))) - {"key", "---"} == set(document), heading
    assert set(rows(section(page, "kinds of waiting"))) - {"kind", "---"} == set(KINDS_OF_WAITING)
    worker = json.loads(json_format.worker_bytes(Worker(), Counters()))
    assert set(rows(section(page, "The worker"))) - {"key", "---"} == set(all_keys(worker)) - set(worker["worker"])
    assert page.startswith(f"# JSON documents\n\nAll documents have `schema` {SCHEMA}.")


@pytest.mark.parametrize("verb", ["read", "list"])
def test_the_documents_of_the_command_are_in_the_reference(verb: str, base: str) -> None:
    """``--format json`` of a worker that is dead prints the keys that are written down, and no other."""
    card = Card(1, base, 1, 0, "", 0, 0, None, None, "/", 0.0)
    Path(card_format.card_path(base, 1)).write_bytes(card_format.encode(card))
    result = _run(verb, "--format", "json", base)
    documented = rows(section(reference("json"), f"wsgi-tb {verb} --format json"))
    assert set(documented) - {"key", "---"} == set(all_keys(json.loads(result)))


def _run(*arguments: str) -> str:
    from click.testing import CliRunner

    return CliRunner().invoke(verbs.cli, list(arguments), standalone_mode=False).stdout


def test_every_library_that_requests_wait_in_is_in_the_how_to() -> None:
    """Each library of the table of known functions has its row, and no other but sqlite3, which is in C."""
    documented = section((DOCS / "howto" / "how-to-read-waits.md").read_text(), "Where it is known from")
    libraries = {"importlib" if known.file.startswith("<") else known.library for known in KNOWN}
    named = {name for row in re.findall(r"^\| ([\w, ]+) \|", documented, re.MULTILINE) for name in row.split(", ")}
    assert named - {"library"} == libraries | {"sqlite3"}


def test_every_key_of_the_card_is_in_the_reference() -> None:
    """Each key that a worker writes on its card has a row, and no other."""
    written = json.loads(card_format.encode(Card(1, "/b", 1, 0, "", 0, 0, None, None, "/", 0.0)))
    assert set(Card._fields) < set(written)
    assert set(rows(section(reference("card"), "Keys"))) - {"key", "---"} == set(written)


def test_every_endpoint_and_status_is_in_the_reference() -> None:
    """Each path that the listener's own 404 names, and each status that it can give, has a row."""
    source = (PROJECT / "wsgi_tracebacker/worker/listening/listener.py").read_text()
    named = re.search(r'404, "there is (.*?)"', source)
    assert named is not None
    endpoints = re.findall(r"/[\w.]*", named[1])
    documented = rows(section(reference("wire"), "HTTP"))
    assert {f"GET {path}" for path in endpoints} == {row for row in documented if row.startswith("GET ")}
    assert set(map(str, http._REASONS)) == {row for row in documented if row.isdigit()}


# --------------------------------------------------------------------------------------------------------- black box

POSTMORTEM = Postmortem(
    1, "/b", 1, None, None, 0.0, 0.0, 0.0, (LostRequest(0, 1, "GET", "/", 0.0, None, None),), 0, 0, 0, None
)


def layout_in(page: str, heading: str) -> list[tuple[int, int, str, str]]:
    """The table of a layout: offset, bytes, type and name of each field."""
    line = re.compile(r"^\| (\d+) \| (\d+) \| (\w+) \| `(\w+)`", re.MULTILINE)
    found = line.findall(section(page, heading))
    return [(int(offset), int(length), kind, name) for offset, length, kind, name in found]


def test_every_field_of_the_header_is_in_the_reference() -> None:
    """Each field stands where the page says: what is written there is what is read back by that name."""
    fields = layout_in(reference("black-box"), "Header")
    content = bytearray(table_rows.FILE_BYTES)
    expected: dict[str, object] = {}
    fixed = {"magic", "version", "rows", "header_bytes", "row_bytes"}
    header = set(table_header.Header._fields) - {"counted"} | set(table_header.Counted._fields)
    assert {name for *_, name in fields} == fixed | header
    for number, (offset, length, kind, name) in enumerate(fields):
        if name in fixed:
            continue
        value: object = 1 if name == "is_closed" else number
        if kind == "text":
            value = f"{number} is {name}"
            content[offset : offset + length] = str(value).encode().ljust(length, b"\0")
        elif kind == "pairs":
            value = ((7, 8), (9, 10))
            content[offset : offset + length] = struct.pack("<4Q", 7, 8, 9, 10).ljust(length, b"\0")
        elif kind == "counters":
            value = tuple(range(length // 8))
            struct.pack_into(f"<{length // 8}Q", content, offset, *range(length // 8))
        else:
            form = {("unsigned", 4): "<I", ("unsigned", 8): "<Q", ("double", 8): "<d"}[kind, length]
            struct.pack_into(form, content, offset, value)
        expected[name] = value
    for offset, length, _, name in fields:
        if name in fixed:
            constant = {
                "version": table_header.VERSION,
                "rows": table_rows.ROWS,
                "header_bytes": table_rows.HEADER_BYTES,
            }
            number = constant.get(name, table_rows.ROW_BYTES)
            content[offset : offset + length] = table_header.MAGIC if name == "magic" else struct.pack("<I", number)
    read = table_header.decode_header(bytes(content))
    assert {**read._asdict(), **read.counted._asdict(), "counted": None} == {**expected, "counted": None}
    assert f"{table_rows.FILE_BYTES:,} bytes" in reference("black-box")
    assert f"{table_rows.ROWS:,} rows of {table_rows.ROW_BYTES} bytes" in reference("black-box")


def test_every_field_of_a_row_is_in_the_reference() -> None:
    """A row that is written by the page is read back with the same values."""
    fields = {name: (offset, length, kind) for offset, length, kind, name in layout_in(reference("black-box"), "Row")}
    assert sum(length for _, length, _ in fields.values()) == table_rows.DETAIL_OFFSET + table_rows.DETAIL.size
    values: dict[str, Any] = {
        "head": 2.5, "method": "GET", "path": "/a", "requests": 6.0, "tail": 2.5, "ident": 3, "native_id": 4, "core": 5,
        "detail_of": 2.5, "remote_address": "::1", "request_id": "7f3a", "resident_bytes": 7,
    }  # fmt: skip
    assert set(fields) == set(values)
    content = bytearray(table_rows.FILE_BYTES)
    for name, (offset, length, kind) in fields.items():
        form = {("unsigned", 4): "<I", ("unsigned", 8): "<Q", ("signed", 4): "<i", ("double", 8): "<d"}
        value = values[name]
        if kind == "text":
            struct.pack_into(f"{length}s", content, table_rows.HEADER_BYTES + offset, value.encode())
        else:
            struct.pack_into(form[kind, length], content, table_rows.HEADER_BYTES + offset, value)
    [row], torn = table_rows.decode_rows(bytes(content), bytes(content))
    assert torn == 0
    assert row == table_rows.Row(5, 3, 4, 2.5, "GET", "/a", "::1", "7f3a", 7)
    assert table_rows.count_requests(bytes(content)) == 6
    assert f"the first {table_rows.FLIGHT.size} bytes" in reference("black-box")


def test_the_files_of_the_black_box_have_the_documented_names() -> None:
    """Each of its files has a row, under the name that a worker takes, in shared memory and beside the socket."""
    page = reference("black-box")
    for kind in (file_names.TABLE, file_names.STACKS, file_names.POSTMORTEM):
        name = file_names.file_name("/b", 3, 1000, kind)
        pattern = re.escape(f"/dev/shm/wsgi_tracebacker.<uid>.<name>.<N>.{kind}")
        assert re.search(rf"^\| `{pattern}` \|", page, re.MULTILINE)
        assert re.fullmatch(rf"wsgi_tracebacker\.1000\.[0-9a-f]{{16}}\.3\.{kind}", name)
        assert f"`<base><N>.{kind}`" in page
    assert f"at most {stacks_file.MAX_STACKS_BYTES // 1024} KiB" in page
    assert f"the last {dead_table.MAX_STACKS_CHARACTERS // 1024} Ki characters" in page


def test_every_key_of_a_postmortem_is_in_the_reference() -> None:
    """A postmortem as it is kept, logged and printed has a row for each key, and no other."""
    document = postmortem_format.document(POSTMORTEM)
    documented = rows(section(reference("black-box"), "The postmortem"))
    assert set(documented) - {"key", "---"} == set(document) | set(document["requests"][0])
    assert f"at most {postmortem_format.MAX_REQUESTS}" in documented["requests"][0]


def test_the_document_of_postmortems_is_in_the_reference(base: str) -> None:
    """``wsgi-tb postmortem --format json`` prints the keys that are written down, and no other."""
    printed = json.loads(_run("postmortem", "--format", "json", base))
    documented = rows(section(reference("json"), "wsgi-tb postmortem --format json"))
    assert set(documented) - {"key", "---"} == set(printed)


def test_every_state_and_source_is_in_the_reference() -> None:
    """Each word for a worker that does not answer, and for where a snapshot is from, is explained."""
    states = rows(section(reference("command"), "wsgi-tb list"))
    keys = rows(section(reference("json"), "The snapshot"))
    for state in (
        processes.ALIVE,
        processes.STOPPED,
        processes.DISK_WAIT,
        processes.DEAD,
        processes.BUSY,
        processes.STALLED,
    ):
        assert state in states
    for state in (processes.ALIVE, processes.STOPPED, processes.DISK_WAIT, processes.BUSY, processes.STALLED):
        assert f"`{state}`" in keys["state"][0]
    for source in ("worker", "uwsgi", "table", "memory", "faulthandler"):
        assert f"`{source}`" in keys["source"][0]


def test_numbers_of_the_signal_and_the_timers_are_those_of_the_code() -> None:
    """The rule for a stall, and the times of the timers, are in the pages as they are in the code."""
    rule = section((DOCS / "how-it-works.md").read_text(), "When it is sent")
    assert f"{stall._WAITING_SWITCHES_PER_SECOND:g} times a second" in rule
    assert f"{stall._ALWAYS_SHARE * 100:g} % of the time" in rule
    assert f"{stall._NOBODY_SHARE * 100:g} % of the time" in rule
    assert (stall.INTERVAL_SECONDS, stall._SLEEPS, stall._OTHERS_SHARE) == (0.5, 3, 0.25)
    text = section(reference("harakiri"), "A stalled worker")
    assert f"{kill_timer.DUMP_SECONDS:g} seconds later SIGKILL" in text
    margin = rows(section(reference("harakiri"), "Options"))["harakiri_margin"][0]
    assert margin.split(" | ")[1] == f"{option_values.DEFAULT_MARGIN_SECONDS:g}"
    signal_row = rows(section(reference("options"), "Options of the middleware"))["dump_signal"][0]
    assert signal_row.split(" | ")[1] == f"`{settings.DEFAULT_DUMP_SIGNAL}`"


# ---------------------------------------------------------------------------------------------------------- harakiri

FRAME = Frame("a.py", 1, "f")
SPAN = Span(0.0, 1.0, FRAME, FRAME, 1, 0, 1, 0.0, 0.0)
REPORT = HarakiriReport(
    kind="harakiri",
    request=REQUEST,
    worker=1,
    core=0,
    pid=1,
    limit_seconds=1.0,
    late_seconds=0.0,
    action="log",
    outcome="logged",
    timeline=(SPAN,),
    verdict=Verdict("frozen", "the same stack"),
    stack=Stack("a", frames=(FRAME,)),
    system_call=None,
    others=(OtherRequest(1, REQUEST),),
    hub=HubState("gevent", "blocked", 1.0),
    hub_blocked_by=OtherRequest(1, REQUEST),
    other_thread=Stack("b", frames=(FRAME,)),
)
HUB_REPORT = HubReport(
    hub=HubState("gevent", "blocked", 1.0),
    worker=1,
    pid=1,
    by=OtherRequest(1, REQUEST),
    stack=Stack("a", frames=(FRAME,), greenlet="running"),
    others=(OtherRequest(2, REQUEST),),
)
STALL_REPORT = StallReport(2.0, 1, 1, (OtherRequest(1, REQUEST),), (LastRequest("GET", "/", 0.5),))


def test_every_option_of_harakiri_is_explained() -> None:
    """The page on harakiri has a row for each of its options, as the list of all options has, with the same default."""
    page = reference("harakiri")
    explained = rows(section(page, "Options"))
    listed = rows(section(reference("options"), "Options of the middleware"))
    options = [*listed][[*listed].index("harakiri") :]
    assert set(explained) - {"option", "---"} == set(options)
    for option in options:
        assert explained[option][0].split(" | ")[:2] == listed[option][0].split(" | ")[:2]
        assert option in rows(section(page, "Errors")) or option == "slow"
    for action in ACTIONS:
        assert f"**`{action}`**" in section(page, "Actions")


def test_numbers_of_harakiri_are_those_of_the_code() -> None:
    """Bounds, defaults and sizes that the page names are what the code has."""
    page = reference("harakiri")
    options = rows(section(page, "Options"))
    assert options["samples_per_second"][0].split(" | ")[1] == f"{option_values.DEFAULT_SAMPLES_PER_SECOND:g}"
    bounds = f"from {option_values.MIN_SAMPLES_PER_SECOND:g} to {option_values.MAX_SAMPLES_PER_SECOND:g}"
    assert bounds in options["samples_per_second"][0]
    assert reporter.REPEAT_SECONDS == 60.0
    assert f"at most {reporter.MAX_FULL_REPORTS} different ones" in section(page, "Repeats")
    assert f"At most {reporter._MAX_WAITING:,} reports wait" in section(page, "Loggers")
    assert f"longer than {reporter.HANGS_AFTER_SECONDS:g} seconds" in section(page, "Loggers")
    assert f"{stacks_file.MAX_STACKS_BYTES // 1024} KiB" in section(page, "The file of the last reports")
    assert f"`{HANDLE_KEY}`" in page.replace('environ["', "").replace('"]', "")


def test_the_file_of_the_last_reports_has_the_documented_name(tmp_path: Path) -> None:
    """The name in the page, with its placeholders filled in, is the name that a worker takes."""
    text = section(reference("harakiri"), "The file of the last reports")
    [pattern] = re.findall(r"^/dev/shm/.*$", text, re.MULTILINE)
    name = re.escape(pattern).replace("<uid>", str(os.geteuid())).replace("<name>", "[0-9a-f]{16}").replace("<N>", "3")
    assert re.fullmatch(name, box_files.path_of(str(tmp_path / "tb"), 3, file_names.STACKS))


def test_every_error_and_every_logger_is_in_the_reference() -> None:
    """Each public error and each logger has a row, an error with what it is besides."""
    page = reference("harakiri")
    documented = rows(section(page, "Errors"))
    for name in wsgi_tracebacker.__all__:
        value = getattr(wsgi_tracebacker, name)
        if isinstance(value, type) and issubclass(value, BaseException) and name != "TracebackerError":
            base = documented[f"wsgi_tracebacker.{name}"][0].split(" | ")[0].strip("`")
            assert issubclass(value, getattr(builtins, base))
    loggers = {logs.PACKAGE, logs.HARAKIRI, logs.SLOW, logs.HUB, logs.STALL, logs.POSTMORTEM}
    assert loggers == set(rows(section(page, "Loggers"))) - {"logger", "---"}


def test_every_public_name_is_in_the_reference() -> None:
    """What the package exports is named on the pages of the options or of harakiri."""
    text = reference("options") + reference("harakiri")
    for name in wsgi_tracebacker.__all__:
        assert re.search(rf"\b{name}\b", text), name
    handle = {name for name in vars(RequestHandle) if not name.startswith("_")}
    assert {f"handle.{name}" for name in handle} == {
        row.partition("(")[0] for row in rows(text) if row.startswith("handle.")
    }


def test_every_key_of_the_record_is_in_the_reference() -> None:
    """A report as it is logged has a row for each key, and no other."""
    page = reference("report")
    document = report_json.document(REPORT)
    for heading, part in (
        ("The record", document),
        ("request", document["request"]),
        ("context", document["request"]["context"]),
        ("deadline", document["deadline"]),
        ("worker", document["worker"]),
        ("its hub", document["worker"]["hub"]),
        ("verdict", document["verdict"]),
        ("timeline", document["timeline"][0]),
        ("thread", {**document["thread"], **report_json.hub_document(HUB_REPORT)["thread"]}),
        ("frame", document["thread"]["frames"][0]),
        ("others", document["others"][0]),
    ):
        assert set(rows(section(page, heading))) - {"key", "---"} == set(part), heading
    keys = section(page, "A blocked hub").partition("Its record has these keys:")[2]
    assert set(rows(keys)) - {"key", "---"} == set(report_json.hub_document(HUB_REPORT))
    keys = section(page, "Python could not run").partition("Its record has these keys:")[2]
    assert set(rows(keys)) - {"key", "---"} == set(report_json.stall_document(STALL_REPORT))
    written = re.findall(r'"(\w+)": ', inspect.getsource(publisher.Publisher.log_summaries))
    assert set(rows(section(page, "a summary"))) - {"key", "---"} == set(written)
    fields = set(HarakiriReport._fields)
    assert set(rows(section(page, "The value"))) - {"attribute", "---"} == fields


def test_every_verdict_is_in_the_reference() -> None:
    """Each verdict that the recorder can give has a row, in the order in which it looks, with its thresholds."""
    page = reference("report")
    verdicts = re.findall(r'Verdict\(\s*"(\w+)"', inspect.getsource(recorder._verdict))
    in_page = re.findall(r"^\| `(\w+)` \|", section(page, "Verdicts"), re.MULTILINE)
    assert in_page == verdicts[: len(in_page) - 1] + verdicts[-1:]
    kinds = rows(section(page, "verdict"))["kind"][0]
    assert set(re.findall(r"`(\w+)`", kinds)) == {"waiting", *verdicts}
    documented = rows(section(page, "Verdicts"))
    assert f"fewer than {recorder._MIN_SAMPLES} samples" in documented["unknown"][0]
    assert f"{recorder._STARVED_SHARE * 100:g} %" in documented["starved"][0]
    assert f"{recorder._BUSY_SHARE * 100:g} %" in documented["busy"][0]
    assert f"{recorder._IDLE_SHARE * 100:g} %" in documented["frozen"][0]
    assert f"{recorder._LATE_SHARE * 100:g} %" in documented["starved"][1]
    assert f"at most {recorder.MAX_SPANS} lines" in page


def test_everything_that_can_be_done_is_in_the_reference() -> None:
    """Each outcome of a report has a row."""
    documented = section(reference("report"), "What was done")
    methods = ("_raise", "begin", "_report_overdue", "_announce_kill", "check", "end")
    tree = ast.parse(inspect.getsource(slow_request) + inspect.getsource(timeout_delivery))
    outcomes = [
        node.value
        for method in ast.walk(tree)
        if isinstance(method, ast.FunctionDef) and method.name in methods
        for node in ast.walk(method)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value
        if node.value != ast.get_docstring(method, clean=False)
    ]
    assert len(outcomes) >= 6
    for outcome in outcomes:
        assert outcome.strip("; ") in documented, outcome


def test_every_server_that_does_not_respawn_is_in_the_how_to() -> None:
    """The table of servers names each one that the code warns of."""
    page = (DOCS / "howto/why-a-request-hangs.md").read_text()
    table = section(page, "End the worker").lower()
    for name in startup_warnings.NOTHING_RESPAWNS:
        assert {"wsgiserver": "wsgiref", "twistedweb": "twisted"}.get(name.lower(), name.lower()) in table


# ---------------------------------------------------------------------------------------------------------- security


def promises() -> list[str]:
    """Each item of the page on security, with the lines that belong to it."""
    page = (DOCS / "security.md").read_text()
    return re.findall(r"^- .*(?:\n  .*)*", page, re.MULTILINE)


@pytest.mark.parametrize("promise", promises(), ids=lambda promise: promise[2:60])
def test_every_promise_names_tests_that_are_there(promise: str) -> None:
    """Each item ends with its proof: tests by their ids, each of which is a function of that file."""
    words, _, proof = promise.partition("\n  Proof: ")
    assert words
    ids = re.findall(r"`([^`]+)`", proof)
    assert ids
    assert proof == ", ".join(f"`{each}`" for each in ids)
    for each in ids:
        path, _, name = each.partition("::")
        tree = ast.parse((PROJECT / path).read_text())
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, each


def test_numbers_of_security_are_those_of_the_code() -> None:
    """Bounds that the page names are what the code has."""
    page = (DOCS / "security.md").read_text()
    assert f"{card_format.MAX_CARD_BYTES >> 10} KiB for a card, {client.MAX_REPLY_BYTES >> 20} MiB for a reply" in page
    assert f"{client.MAX_USER_BYTES >> 20} MiB for all replies of one user" in page
    assert f"can be asked at once, which is {client._MAX_OPEN}," in page
    assert discovery.MAX_USER_WORKERS // client._MAX_OPEN == 4
    assert "by four times what one worker may take" in page
    for text in (page, reference("command")):
        assert f" {discovery.MAX_USER_WORKERS:,} workers are read" in text
    assert f"A reply has at most {client.MAX_REPLY_BYTES >> 20} MiB, all" in reference("command")
    assert f"all replies of one user together {client.MAX_USER_BYTES >> 20} MiB" in reference("command")
    together = f" {postmortems.MAX_USER_BYTES >> 20} MiB are read together"
    assert f"{together}, each file counting for at least {postmortems._OPENING_BYTES >> 10} KiB" in page
    assert together in reference("command")
    assert f"have at most {stacks_file.MAX_STACKS_BYTES >> 10} KiB" in page
    assert f"A request to the socket has at most {http.MAX_REQUEST_BYTES >> 10} KiB" in page
    assert f"has {CONNECTION_SECONDS:g} seconds in all; there are at most {listener.MAX_CLIENTS}" in page


# --------------------------------------------------------------------------------------------------------- all pages


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Each link between pages names a file that is there, and a heading in it."""
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text()):
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.is_file(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
            slugs = [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]
            assert anchor in slugs, target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_python_blocks_compile(page: Path) -> None:
    """What is shown as Python is Python."""
    for block in re.findall(r"^ *```python\n(.*?)^ *```", page.read_text(), re.DOTALL | re.MULTILINE):
        ast.parse(textwrap.dedent(block), str(page))


def test_what_is_read_first_is_short() -> None:
    """README has at most 120 lines, a release in CHANGES 80; the newest one is this one, or not released yet."""
    assert len((PROJECT / "README.md").read_text().splitlines()) <= 120
    _, *releases = re.split(r"^## ", (PROJECT / "CHANGES.md").read_text(), flags=re.MULTILINE)
    assert all(len(release.splitlines()) <= 80 for release in releases)
    assert releases[0].split()[0] in (wsgi_tracebacker.__version__, "Unreleased")


def test_every_page_is_in_the_index() -> None:
    """No page is without a link from the index."""
    linked = {(DOCS / target).resolve() for target in re.findall(r"\]\(([^)#]+)", (DOCS / "index.md").read_text())}
    # The second one is the site's table of contents.
    assert {page for page in DOCS.rglob("*.md") if page.name not in ("index.md", "contents.md")} <= linked


# ------------------------------------------------------------------------------------------------------ real outputs

_REPORT = (
    # Where logging takes long, on a busy machine, the reporter writes to stderr by itself, and says so.
    r"ERROR wsgi_tracebacker\.harakiri(?: \(logging hangs\))?: "
    r"harakiri: GET /\S* \d\S* s \(limit 2 s\), worker 1 core \d, pid \d+"
    r"(, request id \w+)?, from 127\.0\.0\.1, phase app; "
)

_SLOW = (
    r"WARNING wsgi_tracebacker\.slow(?: \(logging hangs\))?: "
    r"slow: GET /\S* \d\S* s \(limit 2 s\), worker 1 core \d, pid \d+"
    r", from 127\.0\.0\.1, phase app; "
)

#: What a line of output is, by the first expression that it matches. Numbers, names and the calls of the server and
#: the interpreter may differ from machine to machine, the kinds and their order may not.
KINDS = (
    ("worker", r"worker \d+  pid \d+  \S+  \S+  up .*  \d+ in flight$"),
    ("worker, stalled", r"worker \d+  pid \d+  \S+  \S+  up .*  \d+ in flight  stalled, no answer$"),
    ("request, stalled", r"  worker \d+ core \d+  [A-Z]+ /\S*  \d.* s  holds the GIL$"),
    ("thread, stalled", r"      thread 0x\w+, native id \d+$"),
    (
        "request, stalled",
        r"  worker \d+ core \d+  [A-Z]+ /\S*  \d.* s(  holds the GIL)?  thread 0x\w+, native id \d+$",
    ),
    ("stalled", r" +\d+ +\d+  stalled +\d+/- +- +\d.* s +\d+M +\d+%  \S+$"),
    (
        "stalled, said",
        r"wsgi-tb: worker \d+ \(pid \d+, /tmp/tbsocket\d+, stalled\): timed out: it did not answer within \d.* s$",
    ),
    (
        "postmortem",
        r"ERROR wsgi_tracebacker\.postmortem: postmortem: worker 1, pid \d+, died with 2 requests in flight; ",
    ),
    ("stacks", r"its last report or stacks, written [^,]*:$"),
    ("stack", r"  (Current thread|Thread) 0x\w+ \(most recent call last\):$"),
    ("lost", r"  GET /\S+  \(core \d, since .*\)$"),
    (
        "request",
        r"  worker \d+ core \d+(, pid \d+)?  [A-Z]+ /\S*  \d.* s(  (in body|running|suspended))?  from 127\.0\.0\.1",
    ),
    ("idle", r"  WSGIWorker\d+Core\d+  idle, last request [A-Z]+ /\S* ended \d.* s ago(, .*)?$"),
    # On a busy machine a report may be late, and says so.
    ("report, logged", _REPORT + r"logged, still running(; this report is \d.* s late, .*)?$"),
    ("report, raised", _REPORT + r"HarakiriTimeout raised in its thread, .*$"),
    ("report, killing", _REPORT + r"killing this worker(; this report is \d.* s late, .*)?$"),
    ("slow", _SLOW + r"ended: \d\.\d-"),
    (
        "hub, blocked",
        r"WARNING wsgi_tracebacker.hub: hub: gevent's hub is blocked for \d\S* s at least by GET /\w+ \d.* s, ",
    ),
    (
        "hub, again",
        r"WARNING wsgi_tracebacker.hub: hub: gevent's hub runs again, after it was blocked for \d.* s by GET ",
    ),
    ("timeline", r"  \d+\.\d-\d+\.\d s  \S+:\d+ .*  \((waiting|CPU)[^)]*\)(  .*)?$"),
    ("verdict", r"  verdict: (waiting|frozen|busy|progressing|starved|unknown): "),
    ("memory", r"  memory: the worker had \d\S* when the request became slow, and has \d\S* now$"),
    ("thread", r"  thread: WSGIWorker1Core\d, native id \d+, state \w, "),
    ("stack", r"  (\.\.\. \d+ calls? of |\S+\.py:\d+ )"),
    ("others", r"\d+ other requests? in flight in this worker:$"),
    ("another", r"  [A-Z]+ /\S* \d.* s \(core \d+\)(  \S+:\d+ .*)?$"),
    ("gunicorn", r"\[.*\] \[ERROR\] Worker \(pid:\d+\) was sent SIGKILL"),
    ("totals", r"(\d+|no) requests? in \d+ workers?"),
    ("places", r" +AGE +N +REQUEST +WAITS FOR +WHERE$"),
    ("place", r"( {18,}[^\s^]| *\d\S* .*s +\d+\N{MULTIPLICATION SIGN}  )"),
    ("heading of a place", r"\d+  \d+ requests?( |:|$)"),
    ("heading of a place, continued", r"   \S"),
    ("last requests", r"the last requests: "),
    ("counts", r"\d+ \w+ .*; --all shows them$"),
    ("stack", r"    "),
    ("columns", r"WORKER +PID +STATE +BUSY +WAITING +OLDEST +RSS +CPU +(RESTARTS +)?APPLICATION$"),
    ("alive", r" +\d+ +\d+  alive +\d+/\d+ +\d+/\d+ +(-|\d.* s) +\d+M +\d+%  \S+$"),
    ("alive again", r" +\d+ +\d+  alive +\d+/\d+ +\d+/\d+ +(-|\d.* s) +\d+M +\d+% +1  \S+$"),
    ("dead", r"\d+ dead since \d\d:\d\d; "),
    # Of tests that run beside this one.
    ("idle", r"wsgi-tb: bases with workers that you may read: "),
    ("dead, said", r"wsgi-tb: worker \d+ \(pid \d+, /tmp/tbsocket\d+\): dead: "),
    ("none", r"wsgi-tb: no workers behind '/tmp/tbsocket'"),
    ("document", r"\{.*\}$"),
    ("blank", r"$"),
)


def shape(output: str) -> list[str]:
    """The kinds of the lines, a stack or timeline as one; what is of no kind stands for itself.

    Idle threads are left out: whether a thread pool takes the same thread again is a matter of luck.
    """
    kinds: list[str] = []
    for line in output.splitlines():
        kind = next((kind for kind, pattern in KINDS if re.match(pattern, line)), line)
        if kind == "document":
            kind = re.sub(r"\d+(\.\d+)?|/srv/\S*?(?=\")", "0", re.sub(r'"(version|python|server)":"[^"]*"', "", line))
        if kind not in ("idle", "heading of a place, continued") and (
            kind not in ("stack", "timeline", "place") or kinds[-1:] != [kind]
        ):
            kinds.append(kind)
    return kinds


def own_calls(output: str) -> list[str]:
    """The calls of the application in all stacks, by file and function; sorted, because threads come in any order.

    Without gunicorn's: its main thread stands wherever it was when the GIL was taken for good.
    """
    return sorted(re.findall(r"^  (?:  )?(?!gunicorn/)([^/\s]\S*\.py):\d+ (\S+)$", output, re.MULTILINE))


def is_as_written(recorded: record.Recorded) -> bool:
    return (shape(recorded.printed), own_calls(recorded.printed)) == (
        shape(recorded.written),
        own_calls(recorded.written),
    )


@pytest.mark.parametrize("name", record.PAGES)
def test_recorded_output_is_what_is_printed_today(name: str) -> None:
    """The commands of the page, run on real gunicorn, print lines of the kinds that stand in the page."""
    require_program("curl")
    page = (PROJECT / name).read_text()
    commands = 0
    with record.session() as running:
        for _, block in record.play(page, running, is_as_written):
            for recorded in block:
                commands += 1
                assert shape(recorded.printed) == shape(recorded.written), recorded.command
                assert own_calls(recorded.printed) == own_calls(recorded.written), recorded.command
    assert commands >= 3


def test_pages_name_no_folder_of_the_machine_that_recorded_them() -> None:
    """What the recorder replaces has been replaced everywhere."""
    for page in PAGES:
        assert not re.search(r"(?<!/4711)/(?:root|home)/|/tmp/tb-|\.pyenv", page.read_text()), page


def test_every_key_and_every_json_key_of_top_is_in_its_reference() -> None:
    """The page has what the help of the screen has, the times that rows stay, and the keys of a JSON line."""
    page = reference("top")
    keys = section(page, "Keys")
    for names, _ in top_app.KEYS:
        for name in re.findall(r"[^\s,]+", names.replace(" to ", " ")):
            assert f"`{name}`" in keys, name
    for view in top_views.VIEWS:
        assert view.title in page
    assert ", ".join(f"{each:g}" for each in top_app.INTERVALS[:-1]) + f" or {top_app.INTERVALS[-1]:g} s" in keys
    assert (live.ENDED_SECONDS, live.LOST_SECONDS) == (3.0, 10.0)
    picture = live.advance(
        None, live.Reading(0.0, 0.0, (live.WorkerReading("/run/tb1", 1, 1, "alive", "1", snapshot=SNAPSHOT),))
    )
    [line] = top_command.json_lines(picture)
    assert set(rows(section(page, "JSON lines"))) - {"key", "---"} == set(json.loads(line))

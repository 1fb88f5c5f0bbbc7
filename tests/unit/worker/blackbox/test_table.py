"""The table of requests in flight, as the worker writes it and as a reader reads it."""

from __future__ import annotations

import _thread
import contextlib
import gc
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.wsgi import environ, serve
from wsgi_tracebacker import TracebackerMiddleware
from wsgi_tracebacker.linux import files
from wsgi_tracebacker.wire.black_box import file_names, table_header, table_rows
from wsgi_tracebacker.worker import agent
from wsgi_tracebacker.worker.blackbox import box_files
from wsgi_tracebacker.worker.blackbox.table import Table
from wsgi_tracebacker.worker.tracking.cores import Cores

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from _typeshed.wsgi import StartResponse, WSGIEnvironment

    from wsgi_tracebacker.worker.tracking.core import Core


def rows(base: str) -> list[table_rows.Row]:
    content = Path(box_files.path_of(base, 1, file_names.TABLE)).read_bytes()
    found, torn = table_rows.decode_rows(content, content)
    assert torn == 0
    return found


def test_a_request_is_in_the_table_while_it_is_in_flight(base: str) -> None:
    """It has a request during the callable and the body, and not after close()."""
    seen: list[list[table_rows.Row]] = []

    def application(_: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        seen.append(rows(base))
        start_response("200 OK", [])

        def body() -> Iterator[bytes]:
            seen.append(rows(base))
            yield b"x"

        return body()

    serve(TracebackerMiddleware(application, base), environ("/caf\xc3\xa9", SCRIPT_NAME="/shop", REQUEST_METHOD="POST"))
    assert [[(row.method, row.path, row.core) for row in table] for table in seen] == [
        [("POST", "/shop/café", 0)],
        [("POST", "/shop/café", 0)],
    ]
    assert seen[0][0].native_id == os.getpid()
    assert rows(base) == []


def test_only_the_owner_may_read_it_and_a_clean_end_removes_it(base: str) -> None:
    """Its mode is 0600, it is allocated in full, and stop() removes it."""
    serve(TracebackerMiddleware(lambda *_: [], base), environ("/"))
    path = Path(box_files.path_of(base, 1, file_names.TABLE))
    status = path.stat()
    assert status.st_mode & 0o777 == 0o600
    assert status.st_size == table_rows.FILE_BYTES
    assert status.st_blocks * 512 >= table_rows.FILE_BYTES
    agent.stop()
    assert not path.exists()


@pytest.mark.parametrize("method", ["PROPPATCH", "BREW", "X" * 40, ""])
def test_an_unusual_method_is_cut_to_its_field(base: str, method: str) -> None:
    """With any values in the environ, the request is served and in the table."""
    seen: list[table_rows.Row] = []

    def application(_: WSGIEnvironment, __: StartResponse) -> Iterable[bytes]:
        seen.extend(rows(base))
        return []

    serve(TracebackerMiddleware(application, base), environ("/", REQUEST_METHOD=method))
    assert [row.method for row in seen] == [method[: table_rows.METHOD_BYTES]]


def header(**changes: Any) -> table_header.Header:
    facts = table_header.Header(1, 1, 0, 0, 1, 1, 1.0, 1.0, 1.0, 0, False, "", None, None, None)
    return facts._replace(**changes)


def content(table: Table) -> bytes:
    return Path(table.path).read_bytes()


def begin(core: Core, path: str, started: float) -> None:
    core.begun += 1
    core.write_row({"REQUEST_METHOD": "GET", "PATH_INFO": path}, started)
    core.started = started


@contextlib.contextmanager
def a_table(folder: Path, name: str = "table", **changes: Any) -> Iterator[Table]:
    table = Table(str(folder / name), header(**changes))
    try:
        yield table
    finally:
        table.close(remove=True)


def test_cores_beyond_the_table_are_counted_while_they_live(tmp_path: Path) -> None:
    """They serve like all others, and their requests are in memory that the worker itself reads."""
    with a_table(tmp_path) as table:
        cores = Cores(_thread.allocate_lock)
        cores.record_in(table)
        taken = [cores.take(1, 1, None) for _ in range(table_rows.ROWS + 2)]
        assert table_header.decode_header(content(table)).unrecorded_cores == 2
        begin(taken[table_rows.ROWS - 1][0], "/last", 5.0)
        begin(taken[-1][0], "/beyond", 6.0)
        table.describe(table_rows.ROWS - 1, 5.0, "192.0.2.1", None)
        table.describe(table_rows.ROWS + 1, 6.0, "192.0.2.1", None)
        found, _ = table_rows.decode_rows(content(table), content(table))
        assert [(row.core, row.path, row.remote_address) for row in found] == [
            (table_rows.ROWS - 1, "/last", "192.0.2.1")
        ]
        assert taken[-1][0].read_row()[1:] == ("GET", "/beyond")
        taken[-1][0].end(7.0)
        del taken[2:]
        gc.collect()
        cores.all()
        assert table_header.decode_header(content(table)).unrecorded_cores == 0


def test_a_core_that_was_there_before_the_table_gets_its_row(tmp_path: Path) -> None:
    """One of two first requests may have its core before the other one has made the table."""
    with a_table(tmp_path) as table:
        cores = Cores(_thread.allocate_lock)
        core, _marker = cores.take(1, 1, None)
        begin(core, "/first", 5.0)
        cores.record_in(table)
        assert [row.path for row in table_rows.decode_rows(content(table), content(table))[0]] == ["/first"]
        core.end(6.0)
        assert table_rows.decode_rows(content(table), content(table)) == ([], 0)


def test_requests_are_counted_through_all_that_becomes_of_a_row(tmp_path: Path) -> None:
    """Its core ends and another has the row, its file vanishes, its worker dies."""
    with a_table(tmp_path) as table:
        cores = Cores(_thread.allocate_lock)
        cores.record_in(table)
        for number in range(2):
            core, marker = cores.take(1, 1, None)
            begin(core, "/", 5.0 + number)
            assert cores.finished() == number
            core.end(7.0)
            del core, marker
            gc.collect()
        assert table_rows.count_requests(content(table)) == cores.finished() == 2
        with a_table(tmp_path, "again", number=2) as again:
            again.go_on_from(table)
            cores.record_in(again)
            core, _marker = cores.take(1, 1, None)
            begin(core, "/", 8.0)
            assert table_rows.count_requests(content(again)) == 3
            assert cores.finished() == 2
            assert table_header.handed_on(content(again)) == table_header.Counted(restarts=1, requests_before=3)


def test_counters_are_in_the_header(tmp_path: Path) -> None:
    """Each counter has its place, and a successor starts with the sums."""
    with a_table(tmp_path) as table:
        for counter in ("harakiri", "slow", "slow", "clients_gone"):
            table.count(counter)
        counted = table_header.decode_header(content(table)).counted
        assert counted == table_header.Counted(harakiri=1, slow=2, clients_gone=1)
        with a_table(tmp_path, "successor", counted=table_header.handed_on(content(table))) as successor:
            successor.count("harakiri")
            assert table_header.handed_on(content(successor)) == table_header.Counted(2, 2, 1, restarts=2)


def test_overdue_requests_are_counted_by_action_and_verdict(tmp_path: Path) -> None:
    """Each pair has its own counter, and a successor goes on with them."""
    with a_table(tmp_path) as table:
        for kind in (("log", "waiting"), ("kill", "unknown"), ("kill", "unknown")):
            table.count_kind(*kind)
        handed_on = table_header.handed_on(content(table))
        with a_table(tmp_path, "successor", counted=handed_on) as successor:
            successor.count_kind("log", "waiting")
            kinds = table_header.decode_header(content(successor)).counted.harakiri_kinds
    found = {kind: count for kind, count in zip(table_header.KINDS, kinds, strict=True) if count}
    assert found == {("log", "waiting"): 2, ("kill", "unknown"): 2}


def test_a_strangers_file_in_its_place_is_left_alone(tmp_path: Path) -> None:
    """With a link there: no table, an error with the reason, and the file is not changed."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    link = tmp_path / "link"
    link.symlink_to(victim)
    with pytest.raises(files.NotOurs):
        Table(str(link), header())
    assert victim.read_bytes() == b"precious"
    assert box_files.read(str(link)) == (None, None)

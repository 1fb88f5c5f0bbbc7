"""The table of requests in flight, as the worker writes it and as anybody reads it."""

from __future__ import annotations

import _thread
import gc
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.unit.wsgi import environ, serve
from wsgi_tracebacker import TracebackerMiddleware
from wsgi_tracebacker.formats import blackbox as layout
from wsgi_tracebacker.worker import agent, blackbox
from wsgi_tracebacker.worker.cores import Cores

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from _typeshed.wsgi import StartResponse, WSGIEnvironment


def rows(base: str) -> list[layout.Row]:
    content = Path(blackbox.path_of(base, 1, layout.TABLE)).read_bytes()
    found, torn = layout.decode_rows(content, content)
    assert torn == 0
    return found


def test_a_request_is_in_the_table_while_it_is_in_flight(base: str) -> None:
    """In the callable, in the body, and no more after close()."""
    seen: list[list[layout.Row]] = []

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
    """0600, allocated in full, gone after stop()."""
    serve(TracebackerMiddleware(lambda *_: [], base), environ("/"))
    path = Path(blackbox.path_of(base, 1, layout.TABLE))
    status = path.stat()
    assert status.st_mode & 0o777 == 0o600
    assert status.st_size == layout.FILE_BYTES
    assert status.st_blocks * 512 >= layout.FILE_BYTES
    agent.stop()
    assert not path.exists()


@pytest.mark.parametrize("method", ["PROPPATCH", "BREW", "X" * 40, ""])
def test_an_unusual_method_is_cut_to_its_field(base: str, method: str) -> None:
    """Whatever a server puts into its environ, the request is served and noted."""
    seen: list[layout.Row] = []

    def application(_: WSGIEnvironment, __: StartResponse) -> Iterable[bytes]:
        seen.extend(rows(base))
        return []

    serve(TracebackerMiddleware(application, base), environ("/", REQUEST_METHOD=method))
    assert [row.method for row in seen] == [method[: layout.METHOD_BYTES]]


def test_the_table_gets_rows_for_its_cores(tmp_path: Path) -> None:
    """As they come, up to its end; what was in flight goes on, and those beyond the end are counted while they live."""
    header = layout.Header(1, 1, 0, 0, 1, 1, 1.0, 1.0, 1.0, 0, False, "", None, None, None)
    table = blackbox.create(str(tmp_path / "table"), header)
    try:
        cores = Cores(_thread.allocate_lock)
        many = [cores.take(1, 1, None) for _ in range(2)]
        many[1][0].note({"REQUEST_METHOD": "GET", "PATH_INFO": "/first"}, 5.0)
        many[1][0].started = 5.0
        cores.record_in(table)

        def content() -> bytes:
            whole = Path(table.path).read_bytes()
            assert os.stat(table.path).st_blocks * 512 >= len(whole)
            return whole

        assert len(content()) == layout.FILE_BYTES
        many += [cores.take(1, 1, None) for _ in range(layout.ROWS)]
        assert len(content()) == layout.row_offset(2 * layout.ROWS)
        last = many[-1][0]
        last.note({"REQUEST_METHOD": "GET", "PATH_INFO": "/last"}, 6.0)
        last.started = 6.0
        table.describe(layout.ROWS + 1, 6.0, "192.0.2.1", None)
        rows, _ = layout.decode_rows(content(), content())
        assert [(row.core, row.path, row.remote_address) for row in rows] == [
            (1, "/first", None),
            (layout.ROWS + 1, "/last", "192.0.2.1"),
        ]
        last.end(7.0)
        assert [row.core for row in layout.decode_rows(content(), content())[0]] == [1]

        many += [cores.take(1, 1, None) for _ in range(layout.MAX_ROWS - layout.ROWS)]
        assert len(content()) == layout.MAX_FILE_BYTES
        assert layout.decode_header(content()).unrecorded_cores == 2
        many[-1][0].note({"REQUEST_METHOD": "GET", "PATH_INFO": "/beyond"}, 6.0)
        assert many[-1][0].noted() == ("GET", "/beyond")
        del many[2:], last
        gc.collect()
        cores.all()
        assert layout.decode_header(content()).unrecorded_cores == 0
    finally:
        table.close(remove=True)


def test_a_table_whose_descriptor_is_anothers_does_not_grow(tmp_path: Path) -> None:
    """An application that closes all descriptors and opens its own: its file is not made longer."""
    header = layout.Header(1, 1, 0, 0, 1, 1, 1.0, 1.0, 1.0, 0, False, "", None, None, None)
    table = blackbox.create(str(tmp_path / "table"), header)
    precious = tmp_path / "precious"
    precious.write_bytes(b"x")
    descriptor, own = os.open(precious, os.O_RDWR), os.dup(table._descriptor)
    os.dup2(descriptor, table._descriptor)
    try:
        assert table.own(layout.ROWS - 1, 1, 1)
        assert not table.own(layout.ROWS, 1, 1)
        assert table.row(layout.ROWS) is None
        assert precious.read_bytes() == b"x"
    finally:
        os.dup2(own, table._descriptor)
        os.close(own)
        os.close(descriptor)
        table.close(remove=True)


def test_a_strangers_file_in_its_place_is_left_alone(tmp_path: Path) -> None:
    """A link or a folder there: no table, an error that says so, nothing touched."""
    header = layout.Header(1, 1, 0, 0, 1, 1, 1.0, 1.0, 1.0, 0, False, "", None, None, None)
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    link = tmp_path / "link"
    link.symlink_to(victim)
    with pytest.raises(FileExistsError):
        blackbox.create(str(link), header)
    assert victim.read_bytes() == b"precious"
    assert blackbox.read(str(link)) is None

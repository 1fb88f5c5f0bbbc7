"""The table of requests in flight, as the worker writes it and as anybody reads it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.unit.wsgi import environ, serve
from wsgi_tracebacker import TracebackerMiddleware
from wsgi_tracebacker.formats import blackbox as layout
from wsgi_tracebacker.worker import agent, blackbox

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


def test_cores_beyond_the_table_are_counted(tmp_path: Path) -> None:
    """The table says how many cores were given out; those without a row write to memory of their own."""
    header = layout.Header(1, 1, 0, 0, 1, 1, 1.0, 1.0, 1.0, 0, False, "", None, None, None)
    table = blackbox.create(str(tmp_path / "table"), header)
    try:
        assert table.row(layout.ROWS - 1) is not None
        assert table.row(layout.ROWS) is None
        table.own(layout.ROWS + 87, 1, 1)
        content = Path(table.path).read_bytes()
        assert layout.decode_header(content).cores == layout.ROWS + 88
    finally:
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

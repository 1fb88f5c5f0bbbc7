from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.unit.wire.black_box.test_table_rows import HEADER, row, table
from tests.unit.wire.hostile import renders
from wsgi_tracebacker.errors import FormatError
from wsgi_tracebacker.model.card import Card
from wsgi_tracebacker.reader import table as tables
from wsgi_tracebacker.wire.black_box import table_rows

UID = os.geteuid()
OWN = HEADER._replace(uid=UID)


def card(path: Path, **changes: object) -> Card:
    facts: dict[str, object] = {
        "number": OWN.number,
        "base": "/tmp/tb",
        "pid": OWN.pid,
        "start_ticks": OWN.start_ticks,
        "boot_id": OWN.boot_id,
        "pid_namespace": OWN.pid_namespace,
        "uid": UID,
        "server": None,
        "application": None,
        "cwd": "/srv",
        "started_at": 0.0,
        "black_box": str(path),
    }
    return Card(**{**facts, **changes})  # type: ignore[arg-type]  # a test changes one fact by its name


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "table"
    file.write_bytes(table(row(44.0, b"/young", core=1), row(40.0, b"/old", core=0), header=OWN))
    return file


def read(card: Card) -> tables.Reading:
    opened = tables.Table(card)
    try:
        return opened.read()
    finally:
        opened.close()


def test_requests_in_flight_become_a_snapshot(path: Path) -> None:
    """The oldest first, with age by the reader's own clock, their threads, and no word on their phase."""
    found = tables.snapshot(card(path), read(card(path)), "busy", monotonic=50.0, unix=9000.0, clocks_are_ours=True)
    assert (found.source, found.state, found.taken_at) == ("table", "busy", 9000.0)
    assert (found.worker.number, found.worker.pid, found.worker.cwd) == (3, 4711, "/srv")
    assert found.worker.requests_in_flight == 2
    assert [stack.request.age_seconds for stack in found.stacks if stack.request] == [10.0, 6.0]
    first = found.stacks[0]
    assert (first.name, first.ident, first.native_id, first.core) == ("WSGIWorker3Core0", 77, 4713, 0)
    assert first.request is not None
    assert (first.request.method, first.request.path, first.request.phase) == ("GET", "/old", "unknown")
    assert first.request.started_at == 8990.0


def test_ages_of_another_machine_come_from_its_own_clocks(path: Path) -> None:
    """The header has both clocks at one instant: 50.25 was 2000.75."""
    found = tables.snapshot(card(path), read(card(path)), "busy", monotonic=1e9, unix=2010.75, clocks_are_ours=False)
    assert found.stacks[0].request is not None
    assert found.stacks[0].request.age_seconds == pytest.approx(20.25)


@pytest.mark.parametrize("change", [{"pid": 1}, {"start_ticks": 1}, {"number": 1}])
def test_a_table_of_another_process_is_not_the_workers(path: Path, change: dict[str, object]) -> None:
    """It is rejected if the card is old or forged."""
    with pytest.raises(FormatError, match="another process"):
        read(card(path, **change))


def test_a_file_that_is_cut_short_is_an_error(path: Path) -> None:
    """Also while it is open: it is read, never mapped."""
    opened = tables.Table(card(path))
    os.truncate(path, table_rows.FILE_BYTES - 1)
    with pytest.raises(FormatError, match="cut short"):
        opened.read()
    opened.close()


def test_links_pipes_and_files_of_others_are_not_opened(path: Path, tmp_path: Path) -> None:
    """Even if the card names them."""
    link, pipe = tmp_path / "link", tmp_path / "pipe"
    link.symlink_to(path)
    os.mkfifo(pipe)
    for wrong in (card(link), card(pipe), card(path, uid=UID + 1), card(tmp_path), card(path, black_box=None)):
        with pytest.raises(OSError):  # noqa: PT011 - of several kinds
            tables.Table(wrong)


def _with_bytes(content: bytes, changes: list[tuple[int, bytes]]) -> bytes:
    changed = bytearray(content)
    for offset, part in changes:
        changed[offset : offset + len(part)] = part
    return bytes(changed)


_GENUINE = table(row(44.0, b"/young", core=1), row(40.0, b"/old", core=0), header=OWN)
_times = st.floats() | st.sampled_from([0.0, 1.7e308, -1.7e308, 1e15, 5e-324])
_garbled = st.builds(
    _with_bytes,
    st.builds(
        lambda started, unix, monotonic, begun: table(
            row(begun, b"\x1b[2J\xff"),
            header=OWN._replace(started_at=started, unix=unix, monotonic=monotonic, server="\x1b[2J"),
        ),
        *(_times, _times, _times, _times),
    )
    | st.just(_GENUINE),
    st.lists(
        st.tuples(st.integers(0, table_rows.HEADER_BYTES + 2 * table_rows.ROW_BYTES), st.binary(max_size=9)), max_size=5
    ),
)


@given(_garbled | st.binary(max_size=40), st.booleans())
@example(content=table(row(40.0), header=OWN._replace(unix=float("nan"))), clocks_are_ours=False)
@example(content=table(row(40.0), header=OWN._replace(started_at=float("inf"))), clocks_are_ours=True)
@example(content=table(row(float("inf")), header=OWN), clocks_are_ours=True)
def test_any_file_is_a_snapshot_or_an_error(content: bytes, clocks_are_ours: bool) -> None:
    """Whatever stands in a table, what is read of it can be shown in every format, with nothing raw in it."""
    with tempfile.NamedTemporaryFile() as file, contextlib.suppress(FormatError):
        file.write(content)
        file.flush()
        own = card(Path(file.name), cwd="\x1b[2J")
        reading = read(own)
        renders(tables.snapshot(own, reading, "busy", monotonic=50.0, unix=9e9, clocks_are_ours=clocks_are_ours))
        tables.threads_of(content)


def test_the_listener_and_the_serving_threads_are_known(path: Path) -> None:
    """The listener's, and those that serve."""
    assert tables.threads_of(path.read_bytes()) == (4712, frozenset((4713, 4714)))

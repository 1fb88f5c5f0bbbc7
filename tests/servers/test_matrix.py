"""The same story in every server: what is seen at each step is what its cell in ``docs/servers.md`` says."""

from __future__ import annotations

import pytest

from tests.servers.matrix import starting, table
from tests.servers.matrix.cells import CELLS, RESPAWNS, SERVICE_ENDS, WARNED, expected
from tests.servers.matrix.kinds import KINDS
from tests.servers.matrix.telling import STEPS, tell
from tests.support.programs import PROJECT

#: Those that differ in how they fork, thread and end; the others are slow only together.
IN_EVERY_RUN = {
    "gunicorn sync",
    "gunicorn gthread --preload",
    "gunicorn gevent",
    "uWSGI --threads",
    "Apache mod_wsgi daemon",
    "granian --respawn-failed-workers",
    "waitress",
    "werkzeug processes",
}


# A server of which nothing is as expected takes all the patience there is, at each step.
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "name", [name if name in IN_EVERY_RUN else pytest.param(name, marks=pytest.mark.slow) for name in KINDS]
)
def test_the_story(name: str) -> None:
    """What was seen at each step is what its cell says."""
    with starting.place() as where:
        told = tell(KINDS[name], where)
    left_out = [seen for seen in told.values() if isinstance(seen, pytest.skip.Exception)]
    failed = [seen for seen in told.values() if isinstance(seen, BaseException) and seen not in left_out]
    if failed or left_out:
        raise (failed or left_out)[0]
    cells = expected(name)
    assert {step: seen for step, seen in told.items() if not cells[step].fits(str(seen))} == {}


def test_every_server_has_its_cells() -> None:
    """There is no server without a row, no row without a server, and no step without a column."""
    assert set(KINDS) >= IN_EVERY_RUN
    assert {name.removesuffix(" --preload") for name in KINDS} == set(CELLS)
    columns = [step for steps in table.TABLES.values() for step in steps]
    assert sorted(columns) == sorted(STEPS)


def test_it_is_warned_exactly_where_killing_ends_the_service() -> None:
    """The warning of ``harakiri_action="kill"`` is given by the servers that did not survive it, and by no other."""
    assert {name for name, row in CELLS.items() if row["warned"] is WARNED} == {
        name for name, row in CELLS.items() if row["killed"] is SERVICE_ENDS
    }
    assert all(row["killed"] is not RESPAWNS or row["warned"] is not WARNED for row in CELLS.values())


def test_the_page_has_the_tables() -> None:
    """What the page shows is what these tests expect; ``make server-table`` writes it."""
    page = (PROJECT / table.PAGE).read_text(encoding="utf-8")
    assert table.written_anew(page) == page

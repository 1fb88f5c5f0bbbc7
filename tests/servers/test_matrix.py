"""The same story in every server: what is seen at each step is what its cell in ``docs/servers.md`` says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.servers.matrix import starting, table
from tests.servers.matrix.cells import CELLS, RESPAWNS, SERVICE_ENDS, WARNED, expected
from tests.servers.matrix.kinds import KINDS, Kind
from tests.servers.matrix.telling import STEPS, tell
from tests.support.programs import PROJECT

if TYPE_CHECKING:
    from collections.abc import Iterator

Told = dict[str, "str | BaseException"]


@pytest.fixture(scope="module", params=list(KINDS.values()), ids=list(KINDS))
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    return found


@pytest.fixture(scope="module")
def told(kind: Kind) -> Iterator[Told]:
    """The whole story of a server, told once; each of its steps is a test."""
    with starting.place() as where:
        yield tell(kind, where)


# A server of which nothing is as expected takes all the patience there is, at each step.
@pytest.mark.timeout(300)
@pytest.mark.parametrize("step", STEPS)
def test_the_story(kind: Kind, told: Told, step: str) -> None:
    """What was seen at this step is what the cell says."""
    seen = told[step]
    if isinstance(seen, BaseException):
        raise seen
    assert expected(kind.name)[step].fits(seen), f"expected {expected(kind.name)[step]}, seen: {seen}"


def test_every_server_has_its_cells() -> None:
    """There is no server without a row, no row without a server, and no step without a column."""
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

"""The tables of ``docs/servers.md``: what is between two marks there is made from the cells."""

from __future__ import annotations

import re

from tests.servers.matrix.cells import CELLS

PAGE = "docs/servers.md"

#: Each table by its mark: the steps, and how their columns are called.
TABLES = {
    "serving": {
        "starts": "our socket is there",
        "seen": "slow requests, seen at the same time with every line, are",
        "harakiri": "the report of a request beyond its time limit (harakiri) is",
        "stream": "a stream flows",
        "disconnect": "a client that leaves ends its stream",
    },
    "responses": {
        "software": "`SERVER_SOFTWARE`",
        "sendfile": "sendfile",
        "length": "`Content-Length` from a list of one",
    },
    "ending": {
        "killed": "a worker killed by SIGKILL is replaced, under its number",
        "warned": '`harakiri_action="kill"` warns',
        "SIGTERM": "after SIGTERM",
        "SIGINT": "after SIGINT",
    },
}


def lines(steps: dict[str, str]) -> list[str]:
    """One table, line by line."""
    return [
        f"| server | {' | '.join(steps.values())} |",
        f"|---|{'---|' * len(steps)}",
        *(f"| {name} | {' | '.join(row[step].text for step in steps)} |" for name, row in CELLS.items()),
    ]


def written_anew(page: str) -> str:
    """The page with its tables as the cells have them."""
    for mark, steps in TABLES.items():
        opening, closing = f"<!-- table: {mark} -->\n\n", "\n\n<!-- end of the table -->"
        pattern = re.escape(opening) + ".*?" + re.escape(closing)
        assert len(re.findall(pattern, page, re.DOTALL)) == 1, mark
        table = opening + "\n".join(lines(steps)) + closing
        page = re.sub(pattern, lambda _, table=table: table, page, flags=re.DOTALL)  # type: ignore[misc]
    return page

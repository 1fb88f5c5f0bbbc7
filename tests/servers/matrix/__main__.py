"""Run the story in every server, or in those that are named, and write the tables of the page anew.

Nothing is written where a cell is not what was seen: the cells have to be corrected first.
"""

from __future__ import annotations

import sys
import time

from tests.servers.matrix import starting, table
from tests.servers.matrix.cells import expected
from tests.servers.matrix.kinds import KINDS
from tests.servers.matrix.telling import tell
from tests.support.programs import PROJECT, default_signals


def main() -> int:
    default_signals()
    wrong = 0
    for name in sys.argv[1:] or KINDS:
        began = time.monotonic()
        with starting.place() as where:
            told = tell(KINDS[name], where)
        print(f"{name}: {time.monotonic() - began:.1f} s")
        for step, seen in told.items():
            if isinstance(seen, BaseException) or not expected(name)[step].fits(seen):
                wrong += 1
                print(f"  {step}: expected {expected(name)[step]}, seen: {seen}")
    if wrong:
        return 1
    page = PROJECT / table.PAGE
    page.write_text(table.written_anew(page.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

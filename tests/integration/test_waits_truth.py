"""What is said of waits is compared with what requests really do: the smallest instance of ``make waits``."""

from __future__ import annotations

import re
import subprocess
import sys

from tests.support.programs import PROJECT


def test_nothing_wrong_is_said_of_requests_that_note_what_they_wait_for() -> None:
    """Of threads that wait for each other in every way, and of those that wait for the GIL only."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.stress.waits", "--looks", "300"],
        cwd=PROJECT,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.match(r"(\d+) looks in \d+ s, seed \d+: 0 contradictions\n", done.stdout)
    assert found is not None, done.stdout
    assert int(found[1]) >= 300

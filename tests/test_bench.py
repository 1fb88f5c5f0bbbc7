"""The measurements: that they run and say what they should, not what comes out of them."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from bench import dump_latency, request_cost, samples, targets
from tests.support.programs import PROJECT

if TYPE_CHECKING:
    from pathlib import Path


def judged(*medians: tuple[str, str, str, float | None]) -> dict[str, bool | None]:
    rows = [samples.Row(topic, case, subject, "ms", median) for topic, case, subject, median in medians]
    return {target.what: target.met for target in targets.judge(rows)}


@pytest.mark.parametrize(
    ("passed", "added", "met"),
    [
        (0.1, 0.6, True),
        (0.1, 0.61, False),
        (0.3, 1.2, True),
        (0.3, 1.21, False),
        (0.03, 0.3, True),
        (0.03, 0.31, False),
    ],
)
def test_what_a_request_may_cost_depends_on_the_machine(passed: float, added: float, met: bool) -> None:
    """The limit holds where a pass-through costs what it does on usual machines, and is scaled on others."""
    topic, case = request_cost.TOPIC, request_cost.LIST
    found = judged((topic, case, request_cost.PASS_THROUGH, passed), (topic, case, request_cost.OURS, added))
    assert found["added to a request, list body"] is met


def test_a_peer_that_is_missing_meets_and_misses_nothing() -> None:
    """Without uWSGI its comparison is not judged; what needs no peer is."""
    topic, case = dump_latency.TOPIC, dump_latency.MANY
    found = judged(
        (topic, case, dump_latency.TEXT, 1.0), (topic, case, dump_latency.JSON, 1.9), (topic, case, "uWSGI", None)
    )
    assert found[f"text dump beside uWSGI's, {case}"] is None
    assert found[f"JSON beside text, {case}"] is True


def test_contestants_take_turns() -> None:
    """Each round measures everybody once, beginning with another one, and the first is thrown away."""
    order: list[str] = []

    def sample(name: str) -> float:
        order.append(name)
        return float(len(order))

    values = samples.in_turns({"a": lambda: sample("a"), "b": lambda: sample("b")}, rounds=2)
    assert "".join(order) == "abbaab"
    assert values == {"a": [4.0, 5.0], "b": [3.0, 6.0]}


def test_a_run_prints_a_table_and_writes_it_down(tmp_path: Path) -> None:
    """One topic, measured quickly: every row is in the table and in the file, with the targets."""
    file = tmp_path / "bench.json"
    output = subprocess.run(
        [sys.executable, "-m", "bench", "read", "--quick", "--json", str(file)],
        capture_output=True,
        text=True,
        cwd=PROJECT,
        check=True,
        timeout=60,
    ).stdout
    document = json.loads(file.read_text(encoding="utf-8"))
    subjects = [row["subject"] for row in document["rows"]]
    assert subjects[-3:] == ["1 worker", "8 workers", "32 workers"]
    assert all(row["low"] <= row["median"] <= row["high"] for row in document["rows"])
    assert all(f"  {subject} " in output for subject in subjects)
    assert len(document["targets"]) == 2
    assert "\nTargets\n" in output

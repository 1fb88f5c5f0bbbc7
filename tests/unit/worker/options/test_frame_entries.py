"""An application's own entries of known functions, as text."""

from __future__ import annotations

import pytest

from wsgi_tracebacker.errors import ConfigurationError
from wsgi_tracebacker.model.waits import WaitsFor
from wsgi_tracebacker.worker.options.frame_entries import PARTS, lines_of, parse

CHARGE = "shop/bank.py:Client.charge service service='the bank' statement=operation host=self.host"


def test_an_entry_names_a_function_its_kind_and_its_parts() -> None:
    """A part is a variable, or a text in quotes."""
    found = parse(CHARGE)
    assert (found.file, found.function, found.kind) == ("shop/bank.py", "Client.charge", "service")
    assert found.variables == (("statement", "operation"), ("host", "self.host"))
    assert found.constants == (("service", "the bank"),)
    assert parse('queue.py:take queue call="jobs"').constants == (("call", "jobs"),)
    assert set(PARTS) <= set(WaitsFor._fields)


def test_entries_are_lines_or_between_semicolons_or_a_list() -> None:
    """Empty ones do not count."""
    other = "shop/jobs.py:wait queue"
    for option in (f"{CHARGE};{other}", f"\n  {CHARGE}\n  {other};\n", [CHARGE, other], (f"{CHARGE}\n{other}",)):
        assert lines_of("known_frames", option) == (CHARGE, other)
    assert lines_of("known_frames", "\n") == ()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("shop/bank.py service", "an entry is FILE.py:FUNCTION KIND"),
        ("shop/bank.py:charge service statement=f()", "an entry is FILE.py:FUNCTION KIND"),
        ("shop/bank.py:charge holiday", "the kind 'holiday': there are database, http"),
        ("shop/bank.py:charge deadlock", "the kind 'deadlock'"),
        ("shop/bank.py:charge http password=password", "the part 'password': there are service, host"),
        (7, "must be text or a list of texts, not 7"),
        (["shop/bank.py:charge http", None], "must be text or a list of texts"),
    ],
)
def test_what_cannot_be_read_is_refused(option: object, message: str) -> None:
    """The message says what there is, in one line."""
    with pytest.raises(ConfigurationError, match="known_frames") as caught:
        lines_of("known_frames", option)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)

"""A command on many hosts, by a program that is there."""

from __future__ import annotations

import os
import re
import time
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsgi_tracebacker.errors import Misuse
from wsgi_tracebacker.reader.elsewhere import hosts
from wsgi_tracebacker.reader.elsewhere.gathered import from_hosts
from wsgi_tracebacker.reader.elsewhere.hosts import Hosts, parse

if TYPE_CHECKING:
    from collections.abc import Iterator


def shell(script: str, *targets: str, seconds: float = 10.0, at_once: int = 32) -> Hosts:
    """Hosts on which a shell script is run, with the host and the command as its arguments."""
    return Hosts(("sh", "-c", script, "{}"), targets, ("wsgi-tb",), at_once, seconds)


def ran(there: Hosts, *arguments: str) -> dict[str, tuple[str, str, int]]:
    return {one.target: (one.stdout.decode(), one.complaint, one.exit_code) for one in hosts.run(there, arguments)}


def test_the_target_stands_where_the_template_says() -> None:
    """In every word that has it; the words of the command follow."""
    there = parse("kubectl exec {} -c 'my app' -- env POD={}", ["pod/a"], "python -m wsgi_tracebacker")
    assert there.words("pod/a", ["read", "%2Ftb"]) == [
        *("kubectl", "exec", "pod/a", "-c", "my app", "--", "env", "POD=pod/a"),
        *("python", "-m", "wsgi_tracebacker", "read", "%2Ftb"),
    ]


@pytest.mark.parametrize(
    ("via", "targets", "command", "complaint"),
    [
        ("ssh", ["a"], "wsgi-tb", "--via needs {}"),
        ("{}", ["a"], "wsgi-tb", "--via needs {}"),
        ("ssh '{}", ["a"], "wsgi-tb", "cannot be split"),
        ("ssh {}", [], "wsgi-tb", "--via needs hosts"),
        ("ssh {}", ["-oProxyCommand=x"], "wsgi-tb", "is no name of a host"),
        ("ssh {}", ["a b"], "wsgi-tb", "is no name of a host"),
        ("ssh {}", [""], "wsgi-tb", "is no name of a host"),
        ("ssh {}", ["a"], "wsgi-tb; rm", "may have letters"),
        ("ssh {}", ["a"], "", "may have letters"),
    ],
)
def test_what_cannot_be_meant_is_refused(via: str, targets: list[str], command: str, complaint: str) -> None:
    """Above all a host that ssh would take for an option, and a command that a shell would act on."""
    with pytest.raises(Misuse, match=re.escape(complaint)):
        parse(via, targets, command)


@given(st.binary(min_size=1).filter(lambda data: b"\0" not in data))
def test_any_base_travels_unchanged_through_any_shell(data: bytes) -> None:
    """It has only characters that no shell acts on, and is no option."""
    base = os.fsdecode(data)
    word = hosts.encode(base)
    assert re.fullmatch(r"[A-Za-z0-9%/._][A-Za-z0-9%/._-]*", word)
    assert hosts.decode(word) == base


def test_each_host_prints_something() -> None:
    """Its stdout, the last line of its stderr, its exit code."""
    there = shell('echo "$0 $2"; echo first >&2; echo "no $0" >&2; exit 3', "a", "b")
    assert ran(there, "read") == {"a": ("a read\n", "no a", 3), "b": ("b read\n", "no b", 3)}


def test_a_program_that_is_not_there() -> None:
    """It is said for each host, and is no error of ours."""
    [(stdout, complaint, code)] = ran(Hosts(("/nowhere/ssh", "{}"), ("a",))).values()
    assert (stdout, complaint, code) == ("", "/nowhere/ssh: No such file or directory", 127)


def test_a_host_that_is_late_is_killed_with_its_children() -> None:
    """It delays nobody longer than its time, and nothing of it is left."""
    began = time.monotonic()
    there = shell('[ "$0" = a ] || exit 0; echo $$; sleep 60 & wait', "a", "b", seconds=0.5)
    found = ran(there)
    assert found == {"a": ("", "it did not answer within 0.5 s", -9), "b": ("", "", 0)}
    assert time.monotonic() - began < 5


def test_a_program_that_stays_in_the_background_keeps_nobody_waiting() -> None:
    """As an ssh does that shares its connection with the next one: it holds stderr open."""
    found = ran(shell("sleep 60 >/dev/null & echo done", "a", seconds=30))
    assert found == {"a": ("done\n", "", 0)}


def test_a_host_that_prints_without_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it fills the memory."""
    monkeypatch.setattr(hosts, "MAX_OUTPUT_BYTES", 1024 * 1024)
    [(stdout, complaint, _)] = ran(shell("exec cat /dev/zero", "a")).values()
    assert (stdout, complaint) == ("", "it printed more than 1 MiB")


def test_only_so_many_run_at_once() -> None:
    """The next one starts when one has ended."""
    there = shell("date +%s.%N; sleep 0.2; date +%s.%N", "a", "b", "c", at_once=1)
    times = sorted([float(line) for line in one[0].split()] for one in ran(there).values())
    assert len(times) == 3
    assert all(before[1] <= after[0] for before, after in pairwise(times))


def test_whoever_stops_listening_leaves_no_process() -> None:
    """As at ^C."""
    running: Iterator[hosts.Ran] = hosts.run(shell('[ "$0" = a ] || exec sleep 60', "a", "b"), ())
    assert next(running).target == "a"
    running.close()  # type: ignore[attr-defined]


def test_a_host_without_a_document_has_not_answered() -> None:
    """One that printed something else is a bad reply, one that printed nothing says why on stderr."""
    there = shell('[ "$0" = a ] && echo Welcome; echo "no route" >&2; exit 255', "a", "b")
    found = from_hosts(there, ["/tb"])
    assert [(one.host, one.reason) for one in found.unanswered] == [("a", "bad reply"), ("b", "unreachable")]
    assert found.failures[1] == "b: unreachable: no route"
    assert found.workers == ()

from __future__ import annotations

import inspect
import json
import os
import sys
import time
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from wsgi_tracebacker._version import __version__
from wsgi_tracebacker.cli import main as command
from wsgi_tracebacker.cli import output, probe
from wsgi_tracebacker.cli.group import cli
from wsgi_tracebacker.cli.show import show
from wsgi_tracebacker.cli.verb_names import VERBS
from wsgi_tracebacker.cli.verbs.check import check
from wsgi_tracebacker.cli.verbs.read import read
from wsgi_tracebacker.errors import NoWorkersFound, WorkerDead, WorkerTimedOut
from wsgi_tracebacker.model.report import LostRequest, Postmortem
from wsgi_tracebacker.model.snapshot import Frame, Request, Snapshot, Stack, Worker
from wsgi_tracebacker.model.worker_row import WorkerRow
from wsgi_tracebacker.reader import survey as surveys
from wsgi_tracebacker.reader.dead import cleaning, postmortems
from wsgi_tracebacker.reader.dead.postmortems import Found
from wsgi_tracebacker.reader.finding import everywhere
from wsgi_tracebacker.reader.finding.discovery import Target
from wsgi_tracebacker.reader.survey import Answer, Survey
from wsgi_tracebacker.wire import uwsgi_text as uwsgi
from wsgi_tracebacker.wire.documents import snapshot_json as documents

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    import click

FRAMES = (Frame("/srv/a.py", 3, "f", "g()", 3, 0, 3),)


def stack(core: int, age_seconds: float) -> Stack:
    request = Request("GET", f"/{core}", None, None, None, 0.0, age_seconds, "app")
    return Stack(f"WSGIWorker1Core{core}", core=core, request=request, frames=FRAMES)


SNAPSHOT = Snapshot(
    Worker(number=1, pid=42, application="shop:app", requests_in_flight=2),
    5.0,
    (stack(0, 1.0), stack(1, 20.0), Stack("bg", frames=FRAMES)),
)


def answer(number: int, **changes: object) -> Answer:
    target = Target(f"/run/tb{number}", number, 1, None, None, 0)
    facts: dict[str, object] = {"state": "alive", "snapshot": None, "error": None, "number": number, "pid": None}
    return Answer(target=target, **{**facts, **changes})  # type: ignore[arg-type]  # one fact by its name


ALIVE = answer(1, snapshot=SNAPSHOT, pid=42)
BUSY = answer(2, state="busy", error=WorkerTimedOut("it did not answer within 5 s"), pid=43)
DEAD = answer(3, state="dead", error=WorkerDead("nobody listens\x1b[31m on its socket"))


class Asked:
    """Stands in for the survey: what it was asked, and what it finds."""

    def __init__(self) -> None:
        self.bases: Sequence[str] = ()
        self.timeout_seconds: float | None = 0.0
        self.numbers: Sequence[int] = ()
        self.may_signal = False
        self.may_read_memory = self.from_outside = False
        self.without_stacks = False
        self.found = Survey((ALIVE,), ())

    def __call__(
        self,
        bases: Sequence[str],
        timeout_seconds: float | None,
        numbers: Sequence[int],
        *,
        may_signal: bool = False,
        may_read_memory: bool = False,
        from_outside: bool = False,
        without_stacks: bool = False,
    ) -> Survey:
        self.may_signal, self.without_stacks = may_signal, without_stacks
        self.may_read_memory, self.from_outside = may_read_memory, from_outside
        self.bases, self.timeout_seconds, self.numbers = bases, timeout_seconds, numbers
        if not self.found.answers:
            raise NoWorkersFound("\n".join(self.found.missing))
        return self.found


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    stand_in = Asked()
    monkeypatch.setattr(surveys, "survey", stand_in)
    # Not those that there are: tests run beside this one.
    monkeypatch.setattr(everywhere, "default_arguments", lambda: ("/tmp/tbsocket",))
    return stand_in


def run(*arguments: str) -> Result:
    """Run the command in this process, exit codes and messages included."""
    with pytest.MonkeyPatch.context() as patch:
        runner = CliRunner()
        with runner.isolation() as (stdout, stderr, _):
            patch.setattr(sys, "argv", ["wsgi-tb", *arguments])
            code = command.run_command()
            sys.stdout.flush()
            sys.stderr.flush()
            out, err = stdout.getvalue(), stderr.getvalue()
    return Result(runner, out, err, out + err, code, code, None)


def test_read_shows_what_workers_do(asked: Asked) -> None:
    """Every worker that answered, as text, and nothing on stderr."""
    asked.found = Survey((ALIVE, ALIVE), ())
    result = run("read", "/run/tb")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("4 requests in 2 workers, oldest 20.0 s\n\n")
    assert result.stdout.index("GET /1  20.0 s") < result.stdout.index("GET /0  1.00 s")
    assert "    /srv/a.py:3 f\n      g()\n" in result.stdout
    assert '    File "/srv/a.py", line 3, in f\n      g()\n' in run("read", "--full", "/run/tb").stdout
    assert "\x1b" not in result.stdout


def test_options_reach_the_survey(asked: Asked) -> None:
    """Bases, numbers and the time limit."""
    run("read", "/a", "/b", "--worker", "1", "-w", "3", "--timeout", "0.5")
    assert (asked.bases, asked.numbers, asked.timeout_seconds) == (("/a", "/b"), (1, 3), 0.5)


def test_a_time_limit_is_only_set_if_it_is_asked_for(asked: Asked) -> None:
    """Without one, the survey knows how long is right for which worker."""
    for arguments in (["read"], ["read", "--all"], ["list"]):
        asked.timeout_seconds = 0.0
        run(*arguments)
        assert asked.timeout_seconds is None


COMMANDS: dict[str, tuple[click.Command, Callable[..., int]]] = {"read": (read, show), "check": (check, probe.check)}

#: How click has no other hosts: one argument of ``show`` instead.
NO_HOSTS: dict[str, object] = {
    "via": None,
    "host": (),
    "hosts_file": None,
    "remote_command": "wsgi-tb",
    "at_once": 32,
    "percent_encoded": False,
}


def defaults(verb: str) -> dict[str, object]:
    parameters = inspect.signature(COMMANDS[verb][1]).parameters
    return {name: each.default for name, each in parameters.items() if name != "hosts"}


def understood(verb: str, arguments: Sequence[str]) -> dict[str, object] | None:
    """What a command line means, if it is understood without click."""
    found = command.without_click([verb, *arguments])
    return None if found is None else {**defaults(verb), **found.keywords}


#: No argument of a program has a NUL.
ARGUMENTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=4)


OPTIONS = [name for verb, _ in COMMANDS.values() for each in verb.params for name in each.opts if name.startswith("-")]
VALUES = [
    "",
    "0",
    "1",
    "5",
    "0.5",
    ".5",
    "1.",
    "00",
    "3600.1",
    "100",
    "101",
    "1e1",
    "nan",
    "text",
    "html",
    "auto",
    "Text",
]
WORDS = st.sampled_from(["read", "list", "-", "--", "-h", "--al", *OPTIONS, *VALUES]) | ARGUMENTS
GIVEN = st.builds("{}={}".format, st.sampled_from(OPTIONS), st.sampled_from(VALUES))


@settings(max_examples=500)
@given(st.sampled_from([*COMMANDS]), st.lists(WORDS | GIVEN, max_size=5))
def test_a_command_line_means_what_click_makes_of_it(verb: str, arguments: list[str]) -> None:
    """Whatever is understood without click means the same with click."""
    found = understood(verb, arguments)
    if found is not None:
        assert COMMANDS[verb][0].make_context(verb, list(arguments)).params == {**found, **NO_HOSTS}


@pytest.mark.parametrize(
    ("line", "changed"),
    [
        ("", {}),
        ("/a /b", {"bases": ("/a", "/b")}),
        ("--format json /a --limit 0", {"form": "json", "limit": 0, "bases": ("/a",)}),
        ("--full --all --no-signal", {"full": True, "all_threads": True, "no_signal": True}),
        ("--times=3 --every 0.5 --older 10", {"times": 3, "every_seconds": 0.5, "older_seconds": 10.0}),
        ("--color always --timeout 2", {"colour": "always", "timeout_seconds": 2.0}),
        ("--path /a/* --by route --sort=cpu", {"path_pattern": "/a/*", "by": "route", "order": "cpu"}),
        ("-w 1 --worker=3 --older 0", {"numbers": (1, 3), "older_seconds": 0.0}),
    ],
)
def test_usual_command_lines_need_no_click(line: str, changed: dict[str, object]) -> None:
    """Bases and the usual options."""
    assert understood("read", line.split()) == {**defaults("read"), "bases": (), **changed}


def test_a_usual_check_needs_no_click(tmp_path: Path) -> None:
    """Probes run it every few seconds. A folder is no file."""
    line = "/a --oldest 60 --saturated 0.9 --waiting=10 --silent 0 --dead 0 --evidence /tmp/e --allow-none"
    found = understood("check", line.split())
    assert found is not None
    assert list(found.values()) == [("/a",), 60.0, 0.9, 10, 0, 0, "/tmp/e", True]
    for wrong in ("--saturated 0", "--saturated 1.1", "--waiting 0", "--dead -1", f"--evidence {tmp_path}"):
        assert understood("check", wrong.split()) is None


@pytest.mark.parametrize(
    "line", ["--limit", "--limit -1", "--format xml", "-w1", "--path", "--path -a", "--full=1", "--every nan", "-- /a"]
)
def test_other_options_and_mistakes_are_left_to_click(line: str) -> None:
    """Click says what is wrong with them."""
    assert understood("read", line.split()) is None


@pytest.mark.parametrize("arguments", [[], ["list"], ["--version"], ["red"], ["", "read"], ["-h", "read"]])
def test_other_verbs_are_left_to_click(arguments: list[str]) -> None:
    """Only ``read`` and ``check`` are plain."""
    assert command.without_click(arguments) is None


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("raed", "did you mean read?"),
        ("LIST", "did you mean list?"),
        ("postmortems", "did you mean postmortem?"),
        ("/tmp/tbsocket", "did you mean wsgi-tb read /tmp/tbsocket?"),
        ("4711", "did you mean wsgi-tb read 4711?"),
        ("x\x1b", "the verbs are check, clean, "),
        ("", "the verbs are check, clean, "),
    ],
)
def test_a_word_that_is_no_verb_gets_a_suggestion(word: str, meant: str) -> None:
    """On stderr, in one line that is fit for a terminal, with the exit code of a command that was not understood."""
    result = run(word, "--format", "json")
    assert (result.exit_code, result.stdout) == (2, "")
    [line] = result.stderr.splitlines()
    assert meant in line
    assert "\x1b" not in line


@pytest.mark.parametrize("verb", ["read", "list", "top", "check", "postmortem", "clean"])
@pytest.mark.parametrize(
    "address",
    [
        "http://localhost:8000/",
        "https://shop.example",
        "localhost:8000",
        ":8000",
        "127.0.0.1:80/x",
        "[::1]:8000",
        "x://\n",
    ],
)
def test_an_address_is_an_error_that_says_what_to_name(verb: str, address: str) -> None:
    """Workers are not asked over the network; for a probe too that is a mistake, and no health."""
    result = run(verb, *(["--allow-none"] if verb == "check" else ["--once"] if verb == "top" else []), "/a", address)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "is an address" in result.stderr
    assert "Name the base path" in result.stderr


def test_clean_keeps_to_the_base_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only who names none, and has none set, cleans all bases, and black boxes that nobody can name."""
    asked: list[tuple[Sequence[str], bool]] = []

    def stand_in(bases: Sequence[str], *, orphans: bool) -> cleaning.Cleaned:
        asked.append((bases, orphans))
        return cleaning.Cleaned((), ())

    monkeypatch.setattr(cleaning, "clean", stand_in)
    monkeypatch.setattr(everywhere, "bases", list)
    monkeypatch.setenv("WSGI_TB_SOCKET", "/run/shop/tb")
    run("clean")
    run("clean", "/run/admin/tb")
    monkeypatch.delenv("WSGI_TB_SOCKET")
    run("clean")
    assert asked == [(("/run/shop/tb",), False), (("/run/admin/tb",), False), (("/tmp/tbsocket",), True)]


def test_only_read_signals_and_not_against_its_users_will(asked: Asked) -> None:
    """--no-signal keeps to the tables. A list needs no stacks, and asks for none."""
    seen = []
    for arguments in (["read"], ["read", "--no-signal"], ["read"], ["list"]):
        run(*arguments)
        seen.append((asked.may_signal, asked.without_stacks))
    assert seen == [(True, False), (False, False), (True, False), (False, True)]


def test_memory_is_read_unless_it_must_not_be(asked: Asked) -> None:
    """Of workers that do not answer; with --from-outside of all, and none is asked. A list reads none."""
    seen = []
    for arguments in (["read"], ["read", "--no-memory"], ["read", "--from-outside", "-w", "1"], ["list"]):
        run(*arguments)
        seen.append((asked.may_read_memory, asked.from_outside))
    assert seen == [(True, False), (False, False), (True, True), (False, False)]


@pytest.mark.parametrize("verb", ["read", "list"])
def test_the_base_comes_from_the_environment_or_is_the_default(
    asked: Asked, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """WSGI_TB_SOCKET, if it is not empty, is the base for who names none; else it is every base that there is."""
    monkeypatch.delenv("WSGI_TB_SOCKET")
    monkeypatch.setattr(everywhere, "default_arguments", lambda: ("/tmp/tbsocket",))
    run(verb)
    assert asked.bases == ("/tmp/tbsocket",)
    monkeypatch.setenv("WSGI_TB_SOCKET", "")
    run(verb)
    assert asked.bases == ("/tmp/tbsocket",)
    monkeypatch.setenv("WSGI_TB_SOCKET", "/run/with blank/tb")
    run(verb)
    assert asked.bases == ("/run/with blank/tb",)
    run(verb, "/named")
    assert asked.bases == ("/named",)


@pytest.mark.parametrize("verb", ["read", "list"])
def test_who_did_not_answer_is_named(asked: Asked, verb: str) -> None:
    """On stderr, with the reason and fit for a terminal; the others are shown, and the exit code is 1."""
    asked.found = Survey((ALIVE, BUSY, DEAD), ("no worker 9: there is 1, 2, 3",))
    result = run(verb, "/run/tb")
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        "wsgi-tb: no worker 9: there is 1, 2, 3",
        "wsgi-tb: worker 2 (pid 43, /run/tb2, busy): timed out: it did not answer within 5 s",
        *(["wsgi-tb: /run/tb: 1 dead; wsgi-tb postmortem shows what they served"] if verb == "read" else []),
    ]
    assert "shop:app" in result.stdout


@pytest.mark.parametrize("verb", ["read", "list"])
def test_the_dead_are_a_failure_where_nobody_lives(asked: Asked, verb: str) -> None:
    """One dead worker of a base is named, many are one line; beside a worker that answered they are no failure."""
    asked.found = Survey((DEAD,), ())
    result = run(verb, "/run/tb")
    assert result.exit_code == 1
    assert result.stderr == "wsgi-tb: worker 3 (/run/tb3): dead: nobody listens\\x1b[31m on its socket\n"
    died = DEAD._replace(last_alive_at=time.mktime((2020, 1, 2, 9, 12, 0, 0, 0, -1)))
    line = "2 dead since 2020-01-02 09:12; wsgi-tb postmortem shows what they served\n"
    asked.found = Survey((died, DEAD), ())
    result = run(verb, "/run/tb")
    assert result.exit_code == 1
    assert result.stderr.endswith(line) == (verb == "read")
    assert result.stdout.endswith(line) == (verb == "list")
    asked.found = Survey((ALIVE, died, DEAD), ())
    assert run(verb, "/run/tb").exit_code == 0
    # Of another base nobody lives.
    asked.found = Survey((ALIVE, DEAD._replace(target=DEAD.target._replace(socket="/run/other3"))), ())
    assert run(verb, "/run/tb", "/run/other").exit_code == 1


@pytest.mark.parametrize("verb", ["read", "list"])
def test_nobody_found_is_3(asked: Asked, verb: str) -> None:
    """With a line for each base that was looked at."""
    asked.found = Survey((), ("no workers behind '/a'", "no workers behind '/b'"))
    result = run(verb, "/a", "/b")
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr == "wsgi-tb: no workers behind '/a'\nwsgi-tb: no workers behind '/b'\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["read", "--format", "xml"],
        ["read", "--timeout", "0"],
        ["read", "--timeout", "nan"],
        ["read", "--worker", "0"],
        ["read", "--older", "-1"],
        ["read", "--color", "sometimes"],
        ["read", "--by", "colour"],
        ["read", "--sort", "size"],
        ["read", "--limit", "-1"],
        ["read", "--times", "0"],
        ["read", "--every", "0"],
        ["completion", "tcsh"],
        ["check", "--saturated", "1.1"],
        ["check", "--saturated", "0"],
        ["check", "--waiting", "0"],
        ["check", "--oldest", "nan"],
        ["check", "--silent", "-1"],
    ],
)
def test_usage_errors_are_2(asked: Asked, arguments: list[str]) -> None:
    """They say what is wrong on stderr, and nothing is asked."""
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Error: " in result.stderr
    assert asked.bases == ()


def test_read_json_is_one_document(asked: Asked) -> None:
    """The snapshots as workers give them, and who did not answer."""
    asked.found = Survey((ALIVE, BUSY), ())
    result = run("read", "--format", "json")
    document = json.loads(result.stdout)
    assert list(document) == ["schema", "host", "workers", "unanswered"]
    here = os.uname().nodename
    assert (document["schema"], document["host"]) == (1, here)
    on_this_host = SNAPSHOT._replace(worker=SNAPSHOT.worker._replace(host=here))
    assert document["workers"] == [json.loads(documents.encode(on_this_host))]
    [silent] = document["unanswered"]
    assert silent.pop("message")
    assert silent == {
        "number": 2,
        "socket": "/run/tb2",
        "pid": 43,
        "reason": "timed out",
        "state": "busy",
        "other_uid": None,
        "host": here,
    }


def test_read_uwsgi_is_the_dump(asked: Asked) -> None:
    """One dump for each worker, all its threads in it."""
    asked.found = Survey((ALIVE, BUSY, ALIVE), ())
    assert run("read", "--format", "uwsgi").stdout_bytes == uwsgi.encode(SNAPSHOT.stacks) * 2


def unanswering(state: str, source: str, frames: tuple[Frame, ...] = ()) -> Answer:
    request = Request("GET", "/x", None, None, None, 0.0, 20.0, "unknown")
    thread = Stack("WSGIWorker2Core0", 0x1F, 43, core=0, request=request, frames=frames, holds_gil=bool(frames) or None)
    snapshot = Snapshot(Worker(number=2, pid=43, requests_in_flight=1), 5.0, (thread,), source, state)
    error = WorkerTimedOut("it did not answer within 2 s")
    return answer(2, state=state, error=error, pid=43, snapshot=snapshot)


@pytest.mark.parametrize("state", ["busy", "stalled", "stopped", "disk wait"])
def test_a_worker_that_does_not_answer_is_shown_from_its_table(asked: Asked, state: str) -> None:
    """In every format, with its state, its request and the thread; it has not answered all the same."""
    asked.found = Survey((unanswering(state, "table"),), ())
    result = run("read")
    assert result.stdout == (
        f"worker 2  pid 43  1 in flight  {state}, no answer\n\n"
        "  worker 2 core 0  GET /x  20.0 s  thread 0x1f, native id 43\n"
    )
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    document = json.loads(run("read", "--format", "json").stdout)
    assert [(each["source"], each["state"]) for each in document["workers"]] == [("table", state)]
    assert [each["state"] for each in document["unanswered"]] == [state]
    text = run("read", "--format", "uwsgi").stdout
    assert text == uwsgi.HEADER.decode() + (
        f"thread_id = WSGIWorker2Core0 filename = <{state}, no answer> lineno = 0 function = request"
        " line = GET /x  20.0 s  ident 31  native id 43\n\n"
    )
    assert f"     2   43  {state}" in run("list").stdout
    assert "GET /x" not in run("read", "--older", "21").stdout


def test_a_stalled_worker_is_shown_with_its_stacks(asked: Asked) -> None:
    """And with who holds the GIL."""
    asked.found = Survey((unanswering("stalled", "faulthandler", FRAMES),), ())
    text = run("read").stdout
    assert "  1 in flight  stalled, no answer\n" in text
    assert "  worker 2 core 0  GET /x  20.0 s  holds the GIL  thread 0x1f, native id 43\n" in text
    assert "    /srv/a.py:3 f\n      g()\n" in text
    assert run("read", "--format", "uwsgi").stdout_bytes.count(b" function = f ") == 1


def test_read_html_is_one_page_in_utf_8(asked: Asked) -> None:
    """It has the requests, and also names the workers that did not answer, as stderr does."""
    asked.found = Survey((ALIVE, BUSY), ())
    result = run("read", "--format", "html")
    assert result.exit_code == 1
    page = result.stdout_bytes.decode("utf-8")
    assert page.startswith("<!DOCTYPE html>\n")
    assert page.endswith("</html>\n")
    assert '<span class="request">GET /1</span>' in page
    assert result.stderr.strip().removeprefix("wsgi-tb: ") in page


def test_older_is_for_every_format(asked: Asked) -> None:
    """Only threads whose request is at least so old are left."""
    (thread,) = json.loads(run("read", "--older", "20", "--format", "json").stdout)["workers"][0]["threads"]
    assert thread["name"] == "WSGIWorker1Core1"
    assert uwsgi.parse(run("read", "--older", "20", "--format", "uwsgi").stdout_bytes)[0].name == thread["name"]
    text = run("read", "--older", "20").stdout
    assert "GET /1" in text
    assert "GET /0" not in text


def test_paths_are_for_every_format(asked: Asked) -> None:
    """Only requests of these paths are left; the text counts the others."""
    (thread,) = json.loads(run("read", "--path", "/1*", "--format", "json").stdout)["workers"][0]["threads"]
    assert thread["request"]["path"] == "/1"
    text = run("read", "--path", "/1*").stdout
    assert "GET /1" in text
    assert "GET /0" not in text
    assert "1 request not shown: younger, or of another path" in text


def test_options_of_the_text(asked: Asked) -> None:
    """What is put together, in which order, how many, and how wide."""
    wide = "/srv/a.py:3 f  g()"
    text = run("read").stdout
    assert wide in text
    assert "1  2 requests\n" in text
    assert "\n2  1 request\n" in run("read", "--by", "none").stdout
    assert run("read", "--by", "none", "--sort", "worker").stdout.index("GET /0") < text.index("GET /1") + 200
    assert "1 more request; --limit 0 shows them" in run("read", "--by", "none", "--limit", "1").stdout


def test_several_looks(asked: Asked) -> None:
    """Each request has a verdict, in JSON the count."""
    text = run("read", "--times", "3", "--every", "0.001").stdout
    assert "the same place in 3 of 3 looks, CPU not known" in text
    assert "; same place" in text
    [worker] = json.loads(run("read", "--times", "2", "--every", "0.001", "--format", "json").stdout)["workers"]
    assert [thread["request"] and thread["request"]["looks"] for thread in worker["threads"]] == [
        {"same": 2, "of": 2},
        {"same": 2, "of": 2},
        None,
    ]


def test_the_width_is_the_terminals_or_80(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what is no terminal COLUMNS counts, if it is a width."""
    for written, columns in (("132", 132), ("", 80), ("wide", 80), ("99999", 80)):
        monkeypatch.setenv("COLUMNS", written)
        assert output.columns() == columns
    monkeypatch.delenv("COLUMNS")
    monkeypatch.setattr("os.get_terminal_size", lambda _: os.terminal_size((200, 50)))
    assert output.columns() == 200


def test_all_shows_threads_that_serve_nothing(asked: Asked) -> None:
    """They are counted without it."""
    assert "1 other thread that serves no requests; --all shows them" in run("read").stdout
    assert "\n  bg  thread, serves no requests\n" in run("read", "--all").stdout


def test_colour_is_for_terminals_and_who_insists(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    """auto colours on a terminal only, and not against NO_COLOR or on a dumb one."""
    from wsgi_tracebacker.cli.output import wants_colour

    class Terminal:
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    assert wants_colour("auto", terminal)  # type: ignore[arg-type]  # as much of a stream as it looks at
    assert not wants_colour("never", terminal)  # type: ignore[arg-type]  # see above
    monkeypatch.setenv("NO_COLOR", "1")
    assert not wants_colour("auto", terminal)  # type: ignore[arg-type]  # see above
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert not wants_colour("auto", terminal)  # type: ignore[arg-type]  # see above
    assert "\x1b[1mworker 1\x1b[0m" in run("read", "--colour", "always").stdout
    assert "\x1b" not in run("read", "--color", "auto").stdout


def test_list_is_a_table(asked: Asked) -> None:
    """One line a worker, aligned, with the oldest request's age."""
    asked.found = Survey((ALIVE, BUSY, DEAD), ())
    assert run("list", "/run/tb").stdout == (
        "WORKER  PID  STATE  BUSY  WAITING  OLDEST  RSS  CPU  APPLICATION\n"
        "     1   42  alive   2/-        -  20.0 s    -    -  shop:app\n"
        "     2   43  busy      -        -       -    -    -  -\n"
        "1 dead; wsgi-tb postmortem shows what they served\n"
    )


def test_several_bases_are_named(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each base has its name above its workers; one that nobody named has it too, if it is not the default."""
    other = ALIVE._replace(target=ALIVE.target._replace(socket="/run/other1"))
    asked.found = Survey((ALIVE, other), ())
    lines = run("list", "/run/tb", "/run/other").stdout.splitlines()
    assert [line for line in lines if line.startswith(("base ", "     1"))] == [
        "base /run/tb",
        "     1   42  alive   2/-        -  20.0 s    -    -  shop:app",
        "base /run/other",
        "     1   42  alive   2/-        -  20.0 s    -    -  shop:app",
    ]
    asked.found = Survey((ALIVE,), ())
    assert not run("list").stdout.startswith("base ")  # in the environment
    monkeypatch.delenv("WSGI_TB_SOCKET")
    monkeypatch.setattr(everywhere, "default_arguments", lambda: ("/run/tb",))
    assert run("list").stdout.startswith("base /run/tb\n")


def test_list_json_has_the_same_facts(asked: Asked) -> None:
    """As numbers, null where nobody knows, and with the reason."""
    asked.found = Survey((ALIVE, BUSY), ())
    alive, busy = json.loads(run("list", "--format", "json").stdout)["workers"]
    assert set(WorkerRow._fields) == set(alive)
    assert {key: value for key, value in alive.items() if value is not None} == {
        "number": 1,
        "base": "/run/tb",
        "busy": 2,
        "listen": [],
        "socket": "/run/tb1",
        "pid": 42,
        "state": "alive",
        "application": "shop:app",
        "requests_in_flight": 2,
        "oldest_request_seconds": 20.0,
    }
    assert (busy["state"], busy["reason"], busy["requests_in_flight"]) == ("busy", "timed out", None)


def test_the_version_is_the_packages() -> None:
    """It stands in one place."""
    assert run("--version").stdout == f"wsgi-tb {__version__}\n"


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_verb_has_help_with_examples(verb: str) -> None:
    """And its name in the list of verbs is the one it is called by."""
    command_ = cli.get_command(None, verb)  # type: ignore[arg-type]  # the context is not looked at
    assert command_ is not None
    assert command_.name == verb
    result = run(verb, "--help")
    assert (result.exit_code, "Examples:" in result.stdout) == (0, True)
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_text_is_written_as_it_comes(
    monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """Not all at once, which would be as much memory again as what is shown; and all of it."""
    monkeypatch.setattr(output, "_CHARACTERS_AT_ONCE", 4)
    written = []

    def lines() -> Iterator[str]:
        for number in range(5):
            written.append(capfdbinary.readouterr().out)
            yield str(number)

    output.write_text(lines())
    written.append(capfdbinary.readouterr().out)
    assert written == [b"", b"", b"0\n1\n", b"", b"2\n3\n", b"4\n"]


@pytest.fixture
def dug(monkeypatch: pytest.MonkeyPatch) -> list[Found]:
    """What is found behind any base."""
    found = [Found((), is_known=False, faults=())]
    monkeypatch.setattr(postmortems, "find", lambda _bases, _numbers: found[0])
    return found


LOST = Postmortem(
    2, "/tmp/tb", 43, None, None, 0.0, 5.0, 9.0, (LostRequest(0, 43, "GET", "/x", 5.0, None, None),), 0, 0, 0, None
)


def test_postmortems_are_shown(dug: list[Found]) -> None:
    """As text with a line between two, and as JSON."""
    dug[0] = Found((LOST, LOST), is_known=True, faults=())
    result = run("postmortem", "/tmp/tb")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.count("worker 2, pid 43, died with 1 request in flight; ") == 2
    assert result.stdout.count("\n\n") == 1
    document = json.loads(run("postmortem", "--format", "json").stdout)
    assert list(document) == ["schema", "postmortems"]
    assert [each["requests"][0]["path"] for each in document["postmortems"]] == ["/x", "/x"]


def test_no_postmortem_is_said(dug: list[Found]) -> None:
    """Nobody died is 0, nobody was ever there is 3, and what cannot be read is 1."""
    result = run("postmortem", "/tmp/tb")
    assert (result.exit_code, result.stderr) == (3, "wsgi-tb: no worker of /tmp/tb is known, living or dead\n")
    dug[0] = Found((), is_known=True, faults=())
    result = run("postmortem", "/tmp/tb")
    assert (result.exit_code, result.stderr) == (0, "wsgi-tb: no worker of /tmp/tb died with requests in flight\n")
    assert json.loads(run("postmortem", "--format", "json").stdout)["postmortems"] == []
    dug[0] = Found((LOST,), is_known=True, faults=("/dev/shm/x: Permission denied",))
    result = run("postmortem")
    assert (result.exit_code, result.stderr) == (1, "wsgi-tb: /dev/shm/x: Permission denied\n")
    assert "GET /x" in result.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["read", "--help"], ["list", "-h"], ["postmortem", "--help"]])
def test_help_tells_the_exit_codes(arguments: list[str]) -> None:
    """0 to 4."""
    text = run(*arguments).stdout
    assert [line.split()[0] for line in text.partition("Exit codes:\n")[2].splitlines()] == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_completion_is_a_script_for_the_shell(shell: str) -> None:
    """Click's own, for this command. (For bash Click starts bash to see its version.)"""
    result = run("completion", shell)
    assert result.exit_code == 0
    assert "_WSGI_TB_COMPLETE" in result.stdout

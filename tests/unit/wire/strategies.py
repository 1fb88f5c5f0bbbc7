"""Values of the model as Hypothesis draws them: any text that can be in a name or a path, any finite number."""

from __future__ import annotations

from hypothesis import strategies as st

from wsgi_tracebacker.model.report import LostRequest, Postmortem
from wsgi_tracebacker.model.snapshot import (
    Counters,
    Frame,
    HubState,
    LastRequest,
    ListenSocket,
    Note,
    Request,
    Snapshot,
    Stack,
    Worker,
)
from wsgi_tracebacker.model.waits import KINDS, Holder, WaitsFor

#: Everything but surrogates, and those by which PEP 383 stands for bytes that are not UTF-8. (A high and a low
#: surrogate side by side are one character in JSON; no file name brings them.)
texts = st.text(
    st.one_of(
        st.characters(exclude_categories=["Cs"]),
        st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF),
        st.sampled_from("\x1b\x9b\r\n\t\u202e\u2028 ="),
    ),
    max_size=20,
)
#: Texts made of what the dump's own grammar is made of.
deceptive_texts = st.lists(
    st.sampled_from(
        [
            "thread_id",
            " filename",
            " lineno",
            " function",
            " line",
            " =",
            " = ",
            "= ",
            "=",
            " ",
            "1",
            "\n",
            "é",
            "\\",
            "x",
        ]
    ),
    max_size=8,
).map("".join)
any_texts = st.one_of(texts, deceptive_texts)

numbers = st.floats(min_value=-1e12, max_value=1e12, allow_nan=False)
integers = st.integers(min_value=0, max_value=2**64 - 1)
optional_integers = st.none() | integers
optional_texts = st.none() | texts

frames = st.builds(
    Frame,
    filename=any_texts,
    lineno=st.none() | st.integers(1, 10**6),
    function=any_texts,
    source=st.none() | any_texts,
    end_lineno=st.none() | st.integers(1, 10**6),
    column=st.none() | st.integers(0, 40),
    end_column=st.none() | st.integers(0, 40),
    source_changed=st.booleans(),
)


holders = st.builds(
    Holder,
    method=texts,
    path=texts,
    age_seconds=numbers,
    core=st.none() | st.integers(0, 100),
    worker=optional_integers,
    has=optional_texts,
    wants=optional_texts,
    thread=optional_texts,
)
waits = st.builds(
    WaitsFor,
    kind=st.sampled_from(sorted(KINDS)) | texts,
    sentence=texts,
    connecting=st.none() | st.booleans(),
    client_gone=st.none() | st.booleans(),
    holders=st.lists(holders, max_size=2).map(tuple),
    since_seconds=st.none() | numbers,
    share=st.none() | numbers,
    **dict.fromkeys(("own_port", "pid", "pool_size", "pool_in_use", "new_calls", "looks"), optional_integers),
    **dict.fromkeys(
        (
            *("service", "peer", "host", "file", "program", "lock", "lock_place", "pool", "statement", "method"),
            *("url", "call", "called_at", "thread"),
        ),
        optional_texts,
    ),
)


def _requests(nested: st.SearchStrategy[tuple[Request, ...]]) -> st.SearchStrategy[Request]:
    return st.builds(
        Request,
        method=texts,
        path=texts,
        query=optional_texts,
        remote_address=optional_texts,
        request_id=optional_texts,
        started_at=numbers,
        age_seconds=numbers,
        phase=st.sampled_from(("app", "body", "close")),
        nested=nested,
        notes=st.lists(st.builds(Note, at_seconds=numbers, text=texts), max_size=2).map(tuple),
        trace_id=optional_texts,
        queued_seconds=st.none() | numbers,
        waits_for=st.none() | waits,
    )


requests = _requests(st.just(()) | st.lists(_requests(st.just(())), max_size=2).map(tuple))
last_requests = st.builds(LastRequest, method=texts, path=texts, ended_seconds_ago=numbers)

stacks = st.builds(
    Stack,
    name=any_texts,
    ident=optional_integers,
    native_id=optional_integers,
    core=st.none() | st.integers(0, 100),
    kind=st.sampled_from(("main", "thread", "foreign", "greenlet", "hub", "unknown")),
    daemon=st.none() | st.booleans(),
    state=st.none() | st.sampled_from("RSDTtI?"),
    wait_channel=optional_texts,
    cpu_seconds=st.none() | numbers,
    request=st.none() | requests,
    last_request=st.none() | last_requests,
    frames=st.lists(frames, max_size=5).map(tuple),
    frames_omitted=st.integers(0, 1000),
    is_cut=st.booleans(),
    holds_gil=st.none() | st.booleans(),
    greenlet=st.none() | texts,
    hub=st.none() | st.builds(HubState, library=texts, state=texts, blocked_seconds=st.none() | numbers),
)

workers = st.builds(
    Worker,
    number=optional_integers,
    pid=optional_integers,
    ppid=optional_integers,
    uid=optional_integers,
    started_at=st.none() | numbers,
    server=optional_texts,
    application=optional_texts,
    cwd=optional_texts,
    python=optional_texts,
    version=optional_texts,
    base=optional_texts,
    requests_finished=optional_integers,
    requests_in_flight=optional_integers,
    oldest_request_seconds=st.none() | numbers,
    slots=optional_integers,
    busy=optional_integers,
    inner_queue=optional_integers,
    restarts=optional_integers,
    host=optional_texts,
    listen=st.lists(
        st.builds(
            ListenSocket,
            inode=integers,
            family=st.sampled_from(("tcp", "unix")),
            address=texts,
            waiting=optional_integers,
            limit=optional_integers,
        ),
        max_size=2,
    ).map(tuple),
)

counters = st.builds(
    Counters,
    snapshots=integers,
    clients_accepted=integers,
    clients_refused=integers,
    clients_dropped=integers,
    faults=integers,
)

snapshots = st.builds(
    Snapshot,
    worker=workers,
    taken_at=numbers,
    stacks=st.lists(stacks, max_size=4).map(tuple),
    source=st.sampled_from(("worker", "uwsgi", "table", "faulthandler")),
    state=st.sampled_from(("alive", "busy", "stalled", "stopped", "disk wait")),
)

_counts = st.integers(0, 2**32)
postmortems = st.builds(
    Postmortem,
    number=_counts,
    base=texts,
    pid=_counts,
    server=optional_texts,
    application=optional_texts,
    started_at=numbers,
    last_written_at=numbers,
    found_at=numbers,
    requests=st.lists(
        st.builds(
            LostRequest,
            core=_counts,
            native_id=_counts,
            method=texts,
            path=texts,
            started_at=numbers,
            remote_address=optional_texts,
            request_id=optional_texts,
            resident_bytes=optional_integers,
        ),
        max_size=3,
    ).map(tuple),
    unlisted_requests=_counts,
    torn_requests=_counts,
    unrecorded_cores=_counts,
    uid=st.none() | _counts,
    stacks=optional_texts,
    stacks_written_at=st.none() | numbers,
    resident_bytes=optional_integers,
)

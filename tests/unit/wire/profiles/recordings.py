"""Recordings for tests of their forms."""

from __future__ import annotations

from hypothesis import strategies as st

from wsgi_tracebacker.model.recording import RecordedStack, RecordedWorker, Recording
from wsgi_tracebacker.model.snapshot import Frame

VIEW, LOAD, SLEEP = (
    Frame("/srv/shop.py", 4, "view"),
    Frame("/srv/shop.py", 9, "load"),
    Frame("<frozen x>", None, "sleep"),
)

STACKS = (
    RecordedStack("GET /orders/:", 1, 4711, "postgresql 10.0.0.5:5432", (VIEW, LOAD), False, 6.0, 600),
    RecordedStack("GET /orders/:", 2, 4712, "CPU", (VIEW,), True, 1.5, 150),
    RecordedStack("POST /pay", 1, 4711, "sleep", (VIEW, LOAD, SLEEP), False, 2.0, 200),
    RecordedStack("POST /pay", 1, 4711, "CPU", (VIEW, LOAD, SLEEP), False, 0.0004, 1),
)

RECORDING = Recording(
    started_at=1.8e9,
    wanted_seconds=10.0,
    seconds=6.3,
    rate=100,
    host="web-1",
    workers=(RecordedWorker(1, 4711), RecordedWorker(2, 4712, "inside")),
    application="shop:app",
    cwd="/srv",
    requests=42,
    exact=940,
    cut=10,
    torn=1,
    torn_seconds=0.01,
    cpu_seconds=1.6,
    stacks=STACKS,
)

frames = st.tuples(st.text(), st.none() | st.integers(0, 2**31), st.text()).map(lambda values: Frame(*values))
stacks = st.builds(
    RecordedStack,
    route=st.text(),
    worker=st.integers(1, 1024),
    pid=st.integers(1, 2**22),
    waits_for=st.text(),
    frames=st.lists(frames, max_size=5).map(tuple),
    is_cut=st.booleans(),
    seconds=st.floats(0, 1e6),
    samples=st.integers(0, 2**40),
    host=st.none() | st.text(),
)
recordings = st.builds(
    RECORDING._replace,
    stacks=st.lists(stacks, max_size=6).map(tuple),
    application=st.none() | st.text(),
    host=st.text(),
)

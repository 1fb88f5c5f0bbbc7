"""Says in a few words what a thread waits for, as far as the kernel shows it.

``text.waits`` says it where the worker found out more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wsgi_tracebacker.model.snapshot import Stack

#: Beginnings of kernel functions that a thread sleeps in (``/proc/<pid>/wchan``), and what it waits for there. Their
#: names differ a little between versions of Linux.
_CHANNELS = (
    ("futex", "waits for a lock or the GIL"),
    ("hrtimer_nanosleep", "sleeps"),
    ("do_nanosleep", "sleeps"),
    ("clock_nanosleep", "sleeps"),
    ("do_sys_poll", "waits for a descriptor (poll)"),
    ("poll_schedule", "waits for a descriptor (poll)"),
    ("do_poll", "waits for a descriptor (poll)"),
    ("ep_poll", "waits for a descriptor (epoll)"),
    ("do_epoll", "waits for a descriptor (epoll)"),
    ("do_select", "waits for a descriptor (select)"),
    ("sk_wait_data", "waits for data from a socket"),
    ("wait_woken", "waits for data from a socket"),
    ("tcp_recvmsg", "waits for data from a socket"),
    ("unix_stream_read", "waits for data from a socket"),
    ("unix_stream_data_wait", "waits for data from a socket"),
    ("sk_stream_wait", "sends to a peer that reads slowly"),
    ("sock_alloc_send", "sends to a peer that reads slowly"),
    ("inet_stream_connect", "waits for a connection"),
    ("inet_wait_for_connect", "waits for a connection"),
    ("inet_csk_accept", "waits for a client to connect"),
    ("pipe_read", "waits for data from a pipe"),
    ("anon_pipe_read", "waits for data from a pipe"),
    ("pipe_w", "waits for room in a pipe"),
    ("anon_pipe_w", "waits for room in a pipe"),
    ("do_wait", "waits for a child process"),
    ("locks_lock", "waits for a lock on a file"),
    ("flock_lock", "waits for a lock on a file"),
    ("fcntl_setlk", "waits for a lock on a file"),
    ("posix_lock", "waits for a lock on a file"),
)

#: What a thread does in a state in which it does not sleep, or not in a function that is named.
ON_A_CPU = "on a CPU"
HOLDS_GIL = "holds the GIL"
_STATES = {"R": ON_A_CPU, "D": "waits for a disk", "T": "stopped", "t": "stopped by a debugger"}


def kernel_view(stack: Stack) -> str | None:
    """``waits for data from a socket``, ``sleeps``, ``on a CPU``, …; None where the kernel does not show it.

    The name of a function of the kernel is as the worker sent it: escape it where it is shown.
    """
    if stack.holds_gil:
        return HOLDS_GIL
    if stack.state is None:
        return None
    if stack.state != "S":
        return _STATES.get(stack.state)
    channel = stack.wait_channel
    # The kernel writes 0 where it may not say.
    if not channel or channel == "0":
        return None
    for beginning, words in _CHANNELS:
        if channel.startswith(beginning):
            return words
    return f"sleeps in {channel}"

"""What came back from a socket, read as a snapshot.

Knows the two kinds of reply: a worker's own (HTTP/1.0 around a JSON document or the text) and uWSGI's (the text,
bare). Refuses to read from the socket itself.
"""

from __future__ import annotations

from typing import NamedTuple

from wsgi_tracebacker.errors import BadReply, FormatError
from wsgi_tracebacker.model.snapshot import Snapshot, Worker
from wsgi_tracebacker.wire import snapshot_json as json

#: The head of a worker's reply has 150 bytes.
_MAX_HEAD_BYTES = 8 * 1024


class Reply(NamedTuple):
    """All bytes that a worker sent, and whom the kernel names as the one who sent them (SO_PEERCRED)."""

    content: bytes
    #: The process that called ``listen``; 0 where it is in a pid namespace that cannot be seen from here.
    peer_pid: int
    peer_uid: int


def snapshot(reply: Reply, taken_at: float, *, without_stacks: bool = False) -> Snapshot:
    """The snapshot in a reply; ``taken_at`` is for one that does not say when it was taken.

    ``without_stacks``: the worker was asked only who it is; uWSGI, which answers every question with its stacks, has
    them here all the same. Raises BadReply if there is no snapshot.
    """
    content = reply.content
    try:
        if content.startswith(b"HTTP/1."):
            content = _body(content)
            if content.startswith(b"{"):
                if without_stacks:
                    return Snapshot(json.decode_worker(content)[0], taken_at, ())
                return json.decode(content)
        if content.startswith(b"*** "):
            # Here, because a worker of ours does not answer with it.
            from wsgi_tracebacker.wire import uwsgi_text as uwsgi  # noqa: PLC0415

            stacks = uwsgi.parse(content)
            is_uwsgi = content.startswith(uwsgi.UWSGI_HEADER.rstrip())
            return Snapshot(
                worker=Worker(
                    number=uwsgi.worker_number(stacks),
                    pid=reply.peer_pid or None,
                    uid=reply.peer_uid,
                    server="uWSGI" if is_uwsgi else None,
                ),
                taken_at=taken_at,
                stacks=stacks,
                source="uwsgi" if is_uwsgi else "worker",
            )
    except FormatError as error:
        raise BadReply(f"its reply cannot be read: {error}") from None
    raise BadReply("what listens there is no tracebacker: its reply is neither ours nor uWSGI's")


def _body(content: bytes) -> bytes:
    end = content.find(b"\r\n\r\n", 0, _MAX_HEAD_BYTES)
    if end < 0:
        raise BadReply("its reply broke off within the header, or has one that does not end")
    head, body = content[:end], content[end + 4 :]
    status, *headers = head.split(b"\r\n")
    if status.split(b" ", 2)[1:2] != [b"200"]:
        raise BadReply(f"it answered {status[:100].decode('ascii', 'backslashreplace')!r}")
    for header in headers:
        name, _, value = header.partition(b":")
        if name.strip().lower() == b"content-length" and value.strip() != b"%d" % len(body):
            raise BadReply(f"its reply broke off after {len(body)} bytes")
    return body

"""Decodes a worker's reply into a snapshot.

There are two kinds of reply: our workers send HTTP/1.0 with a JSON document or the text, uWSGI sends the bare text.
"""

from __future__ import annotations

from typing import NamedTuple

from wsgi_tracebacker.errors import BadReply, FormatError
from wsgi_tracebacker.model.snapshot import Snapshot, Worker
from wsgi_tracebacker.wire.documents import snapshot_json

#: The largest head that is accepted; a worker's has 150 bytes.
_MAX_HEAD_BYTES = 8 * 1024


class Reply(NamedTuple):
    """All bytes that a worker sent, and the process that sent them by SO_PEERCRED."""

    content: bytes
    #: The process that called ``listen``; 0 if its pid namespace cannot be seen from here.
    peer_pid: int
    peer_uid: int


def snapshot(reply: Reply, taken_at: float, *, without_stacks: bool = False) -> Snapshot:
    """Decode a reply; ``taken_at`` is used if it does not say when it was taken.

    ``without_stacks``: the worker was asked only who it is. uWSGI sends its stacks in any case.
    Raises BadReply if there is no snapshot in it.
    """
    content = reply.content
    try:
        if content.startswith(b"HTTP/1."):
            content = _body(content)
            if content.startswith(b"{"):
                if without_stacks:
                    return Snapshot(snapshot_json.decode_worker(content)[0], taken_at, ())
                return snapshot_json.decode(content)
        if content.startswith(b"*** "):
            # Imported only here: our workers do not answer with it.
            from wsgi_tracebacker.wire import uwsgi_text  # noqa: PLC0415

            stacks = uwsgi_text.parse(content)
            is_uwsgi = content.startswith(uwsgi_text.UWSGI_HEADER.rstrip())
            return Snapshot(
                worker=Worker(
                    number=uwsgi_text.worker_number(stacks),
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

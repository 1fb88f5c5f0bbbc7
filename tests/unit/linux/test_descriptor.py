"""Whether a descriptor is still ours."""

from __future__ import annotations

import _socket
import os
from typing import TYPE_CHECKING

import pytest

from wsgi_tracebacker.linux.descriptor import OwnDescriptor

if TYPE_CHECKING:
    from pathlib import Path

KINDS = ["file", "socket"]


def opened(kind: str, folder: Path) -> int | _socket.socket:
    if kind == "socket":
        return _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    return os.open(folder / "ours", os.O_RDWR | os.O_CREAT)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_ours_until_it_is_closed(kind: str, tmp_path: Path) -> None:
    """And may be closed twice."""
    own = OwnDescriptor(opened(kind, tmp_path))
    number = own.number
    assert own.is_ours()
    own.close()
    own.close()
    assert (own.is_ours(), own.number) == (False, -1)
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(number)


@pytest.mark.parametrize("theirs", ["nothing", *KINDS])
@pytest.mark.parametrize("kind", KINDS)
def test_what_the_application_has_there_stays_open(kind: str, theirs: str, tmp_path: Path) -> None:
    """It closed ours, and its own file or socket may have that number now."""
    own = OwnDescriptor(opened(kind, tmp_path))
    number = own.number
    if theirs == "nothing":
        os.close(number)
    else:
        (tmp_path / "theirs").mkdir()
        other = opened(theirs, tmp_path / "theirs")
        os.dup2(other if isinstance(other, int) else other.fileno(), number)
        OwnDescriptor(other).close()
    assert not own.is_ours()
    own.close()
    del own
    if theirs != "nothing":
        os.close(number)  # raises if it is closed already

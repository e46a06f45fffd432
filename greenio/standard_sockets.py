"""The standard socket class's methods, parking: what greenio.monkey puts into socket.socket.

`METHODS` has them by name, `FUNCTIONS` the module's that look up names. Each does what the original did where no fiber runs. In a
fiber, a companion of the object's, a greenio.socket.socket on the same descriptor that never closes it, makes the call and waits;
the object's own timeout rules.
Exceptions and how things stand after them are those of greenio.socket.
"""

import io
import os
import socket as _standard
from typing import Any

import greenio.socket as _parking
from greenio import _plain_sockets
from greenio._io import notify_closing
from greenio._plain_sockets import PlainCore
from greenio._scheduler import can_park
from greenio.socket import make_file, socket

__all__ = ["FUNCTIONS", "METHODS", "close", "forget_companions"]

_close: Any = _standard.close
_makefile: Any = _standard.socket.makefile
_recv: Any = _plain_sockets.METHODS["recv"]
_recv_into: Any = _plain_sockets.METHODS["recv_into"]
_sendfile: Any = getattr(_standard.socket, "_sendfile_use_sendfile", None)


class Companion(PlainCore, socket):
    """A greenio.socket.socket on the descriptor of a standard one."""

    __slots__ = ()

    def __repr__(self) -> str:
        return super().__repr__().replace("greenio.socket.socket", "socket.socket", 1)


_plain_sockets.set_companion_class(Companion)


def _sendfile_use_sendfile(self: Any, file: Any, offset: int = 0, count: int | None = None) -> Any:
    # The system's sendfile waits for room on a descriptor that is not O_NONBLOCK.
    if self.gettimeout() is not None or not can_park():
        return _sendfile(self, file, offset, count)
    self._check_sendfile_params(file, offset, count)
    try:
        size = os.fstat(file.fileno()).st_size
    except (AttributeError, io.UnsupportedOperation, OSError) as error:
        raise _standard._GiveupOnSendfile(error) from error  # type: ignore[attr-defined]
    if not size:
        return 0
    file.seek(offset)  # from there also if it is 0, unlike what follows by itself
    return self._sendfile_use_send(file, offset, count)


def makefile(
    self: Any,
    mode: str = "r",
    buffering: int | None = None,
    *,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
) -> Any:
    # The C buffers have an OS thread's lock, refuse a second fiber, and lose what they hold when a read is cancelled.
    if can_park():
        kind = type(self)
        receives = kind.recv is _recv and kind.recv_into is _recv_into
        return make_file(self, mode, buffering, encoding, errors, newline, receives)
    return _makefile(self, mode, buffering, encoding=encoding, errors=errors, newline=newline)


makefile.__qualname__ = "socket.makefile"
makefile.__module__ = "socket"
makefile.__doc__ = _makefile.__doc__
METHODS: dict[str, Any] = {**_plain_sockets.METHODS, "makefile": makefile}
if _sendfile is not None:
    _sendfile_use_sendfile.__qualname__ = "socket._sendfile_use_sendfile"
    _sendfile_use_sendfile.__module__ = "socket"
    METHODS["_sendfile_use_sendfile"] = _sendfile_use_sendfile


def close(fd: Any, /) -> None:
    """As socket.close; who waits on the descriptor gets OSError (EBADF)."""
    if isinstance(fd, int) and fd >= 0:
        notify_closing(fd)
    _close(fd)


FUNCTIONS: dict[str, Any] = {
    name: _plain_sockets.parking_lookup(getattr(_standard, name), getattr(_parking, name), name == "getnameinfo")
    for name in ("getaddrinfo", "getnameinfo", "gethostbyname", "gethostbyname_ex", "gethostbyaddr", "getfqdn")
}


def forget_companions() -> None:
    """The methods have been taken out of the class: no object is looked after any more. Who waits gets OSError (EBADF)."""
    _plain_sockets.forget_all()

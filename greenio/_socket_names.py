"""The names of the standard socket module that fibers can use as they are: constants, exceptions, what never waits.

What waits, or makes sockets that would block the OS thread, is taken out here and has a namesake in socket.py. The databases
of services and protocols (getservbyname, getprotobyname) are files of this machine, and read as such.
"""

from errno import EAGAIN as EAGAIN
from errno import EBADF as EBADF
from errno import EWOULDBLOCK as EWOULDBLOCK
from socket import *  # noqa: F403
from socket import AddressInfo as AddressInfo
from socket import MsgFlag as MsgFlag
from socket import SocketIO as SocketIO
from socket import __all__ as __all__

# One by one: type checkers follow that.
__all__ = __all__.copy()
__all__.remove("SocketType")
__all__.remove("close")
__all__.remove("create_connection")
__all__.remove("create_server")
__all__.remove("fromfd")
__all__.remove("getaddrinfo")
__all__.remove("getfqdn")
__all__.remove("gethostbyaddr")
__all__.remove("gethostbyname")
__all__.remove("gethostbyname_ex")
__all__.remove("getnameinfo")
__all__.remove("socket")
__all__.remove("socketpair")

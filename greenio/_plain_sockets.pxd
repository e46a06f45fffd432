# _plain_sockets.pxd: sockets of the standard class, whose calls park as greenio.socket's do.
#
# The C object, its timeout and its descriptor's flags stay what CPython has made them. For each one that a fiber uses there is a companion,
# a socket of ours on the same descriptor that never closes it: it makes the calls and waits.
#
# Invariants:
#   - `companions` has at most one by object, and it goes before the object's descriptor is closed, given away, or the object freed;
#   - the object's own timeout is the truth: the companion gets it anew at every call;
#   - a companion sets O_NONBLOCK on a descriptor for the moment of one accept or connect, with the GIL held or in the system's connect, and
#     only on those that the standard class has opened itself. Flags sit on the open file: a process or a copy that shares it could see that
#     moment, and nothing but that. Processes that were forked from one another take turns.
from greenio._messages cimport MessageCore
from greenio._socket cimport sockaddr_storage, socklen_t


cdef class PlainCore(MessageCore):
    cdef bint foreign                 # the descriptor was given to the standard class by number: its flags are not ours to touch

    cdef int accept_now(self, bint locked, sockaddr_storage *address, socklen_t *length) noexcept

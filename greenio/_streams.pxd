# _streams.pxd: a connection with buffers. Reads and writes above a socket's receive and transmit, and nothing else about sockets.
#
# Invariants:
#   - at most one fiber reads (`reader`); whoever tries meanwhile gets RuntimeError. Only it moves `held`, `start` and `end`;
#   - at most one fiber sends (`sender`); the others stand in line in `turns`. Only it moves `pending`, and who found nobody
#     sending and does not park;
#   - received bytes leave `held` only by being returned: what raises leaves them there, but for IncompleteReadError, which has them;
#   - `held` is None when it has nothing, so a stream that waits between messages owns no buffer;
#   - nothing stays in `pending` unless the stream is corked, or a flush was interrupted.
from libc.stdint cimport int64_t

from greenio._scheduler cimport Fiber, Scheduler
from greenio._socket cimport SocketCore
from greenio._waiting cimport Line


cdef class Stream:
    cdef object __weakref__
    cdef object sock                   # what it was made of, or TLS on top of that
    cdef SocketCore core               # the same, if its receive and transmit may be called directly; None: its methods are
    cdef object peer                   # address, once known
    cdef object own                    # and its own
    cdef object timeout_seconds        # float, or None: for ever. For one operation as a whole
    cdef object upgrading              # CancelScope of a handshake that is under way, or None
    cdef bint closed_                  # by close or abort
    cdef bint half_closed              # nothing more may be written
    cdef bint ended                    # the peer's end was received
    cdef bint lost                     # a read or write failed: the connection is gone
    cdef int failure                   # the errno that receiving failed with, for every later read; 0: none

    cdef Fiber reader                  # or None
    cdef unsigned int reader_process   # forks behind the process it reads in: in a forked child it has not come along
    cdef bytes held                    # received and not yet read: [start, end) of it. Nobody else has this object; None: nothing
    cdef Py_ssize_t start
    cdef Py_ssize_t end
    cdef readonly Py_ssize_t read_buffer   # bytes received at once beyond what was asked for
    cdef Py_ssize_t limit_bytes        # of a line

    cdef bint sending
    cdef unsigned int sender_process
    cdef Line turns                    # who waits to send
    cdef int corks                     # corked() blocks entered
    cdef char *pending                 # written and not yet sent: [pending_start, pending_end), or NULL
    cdef Py_ssize_t pending_start
    cdef Py_ssize_t pending_end
    cdef Py_ssize_t pending_room       # bytes allocated, at most write_buffer
    cdef readonly Py_ssize_t write_buffer  # bytes that may be pending

    cdef Py_ssize_t received_bytes
    cdef Py_ssize_t sent_bytes
    cdef Py_ssize_t receives           # calls of the socket that brought bytes, or the end
    cdef Py_ssize_t sends              # and that took some
    cdef Py_ssize_t waits              # those that had to park
    cdef int64_t since_ns              # made, on the scheduler's clock (0: outside a run)

    # Reading. begin_reading is each operation's first step; the fiber is the reader from take_reader to drop_reader.
    cdef Scheduler begin_reading(self)
    cdef int take_reader(self, Scheduler scheduler) except -1
    cdef void drop_reader(self) noexcept
    # One receive of the socket; 0: the end. Parks, but not after the bytes have come. Does not spend.
    cdef Py_ssize_t receive(self, Scheduler scheduler, char *target, Py_ssize_t size) except -1
    # Receives once, behind what is held; `wanted`: how many bytes the caller needs in all. False: the end.
    cdef bint fill(self, Scheduler scheduler, Py_ssize_t wanted) except -1
    cdef int hold(self, const char *data, Py_ssize_t size) except -1
    cdef int make_room(self, Py_ssize_t size) except -1
    cdef bytes take(self, Py_ssize_t size)
    cdef object read_some(self, Scheduler scheduler, Py_ssize_t n)
    cdef object read_all(self, Scheduler scheduler, Py_ssize_t limit)
    cdef object read_whole(self, Scheduler scheduler, Py_ssize_t n)
    cdef object read_through(self, Scheduler scheduler, const char *separator, Py_ssize_t size, Py_ssize_t limit, bint or_end)
    cdef Py_ssize_t read_to(self, Scheduler scheduler, char *target, Py_ssize_t size) except -1

    # Writing.
    cdef Scheduler begin_writing(self)
    cdef int take_turn(self, Scheduler scheduler) except -1
    cdef void end_turn(self) noexcept
    cdef int write_bytes(self, Scheduler scheduler, object data, const char *start, Py_ssize_t size) except -1
    # `data`: the object whose bytes they are, or None.
    cdef int send(self, Scheduler scheduler, object data, const char *start, Py_ssize_t size) except -1
    cdef int send_pending(self, Scheduler scheduler) except -1
    cdef int flush_all(self, Scheduler scheduler) except -1
    cdef int gather(self, const char *data, Py_ssize_t size) except -1
    cdef void drop_pending(self) noexcept
    cdef int finish(self, object linger) except -1
    cdef int end_writing(self, Scheduler scheduler) except -1

    cdef int transmit(self, Scheduler scheduler, object data, const char *start, Py_ssize_t size) except -1
    cdef void note_loss(self, error) noexcept

    cdef Py_ssize_t limit_of(self, limit) except -1
    cdef int discard(self) except -1
    cdef int end_tls(self) except -1
    cdef int upgrade(self, context, bint server_side, server_hostname, timeout) except -1
    cdef int adopt(self, object sock) except -1
    cdef int require_open(self) except -1

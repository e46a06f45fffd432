# _tls.pxd: TLS on a socket: OpenSSL between two memory BIOs, and what moves bytes between those and the descriptor.
#
# _ssl on the descriptor itself would read each record by two system calls, tell by an exception that there are no more, and block on
# a descriptor without O_NONBLOCK. Here one system call fills a scratch buffer, its bytes go into `incoming` before anything can be raised,
# and what OpenSSL has written to `outgoing` goes out by one more.
#
# A connection is used by several fibers at once, also of several OS threads: _ssl lets the GIL go, and calls back into Python, which
# may park. So four turns, each first come first served:
#   - reading: whoever takes ciphertext from the descriptor, and a whole recv;
#   - writing: a whole send or sendall, so that they do not mix;
#   - flushing: whoever moves ciphertext from `outgoing` to the descriptor. Never held while waiting for the peer's bytes;
#   - calling: one call of _ssl, or of a BIO. Never held while waiting for anything (but by a callback of the user's).
# Taken in this order; no turn is waited for with a later one held.
#
# Invariants:
#   - ciphertext leaves in the order in which OpenSSL made it: `unsent`, then `outgoing`; both are touched with the turn to flush only;
#   - bytes taken from the descriptor are in `incoming`, or in `arrived`, before the fiber can be interrupted;
#   - `stale` is the number of those who want input (`wanting`) and have not been told of the last one; those who were interrupted meanwhile
#     may be missing. Nobody waits for the descriptor before the others were told.
from cpython.ref cimport PyObject
from libc.stdint cimport int64_t, uint64_t

from greenio._messages cimport MessageCore
from greenio._scheduler cimport Scheduler
from greenio._waiting cimport Line


cdef struct Turn:
    PyObject *holder          # the fiber whose turn it is, borrowed; NULL: nobody's
    unsigned int process      # in which that was (forks): a forked child has no other fiber
    Line line


cdef class Engine:
    # One TLS session on a connection.
    cdef object native             # _ssl._SSLSocket, or what stands for one
    cdef object wrapper            # the SSLObject that a context of another make returned, or None
    cdef object incoming           # MemoryBIO: what the peer sent
    cdef object outgoing           # MemoryBIO: what is for the peer
    cdef object call_read          # bound methods: the wrapper's where it overrides SSLObject's, else native's
    cdef object call_write
    cdef object call_handshake
    cdef object call_shutdown
    cdef bint direct               # call_read and call_write are _ssl's own: they keep no reference to a buffer
    cdef bint ready                # call_read may have something, or the end, without more input
    cdef bint eof                  # the descriptor is at its end
    cdef bint broken               # sending has failed: only a send tries again
    cdef bint half_closed          # close_notify was sent by us, and reading goes on
    cdef bint careful              # take no byte beyond the current record
    cdef bytes ahead               # plaintext read before anybody asked for it, or None
    cdef Py_ssize_t ahead_at       # bytes of it that are gone
    cdef object failure            # what pending() ran into: the next read raises it
    cdef bytes unsent              # ciphertext taken out of `outgoing`, or None
    cdef Py_ssize_t unsent_at      # bytes of it that are gone
    cdef PyObject *waiter          # the fiber that waits for the descriptor to bring input, borrowed; or NULL
    cdef unsigned int waiter_process   # in which that was: a forked child has no such fiber
    cdef Py_ssize_t taken          # of a send that raised SSLWantWriteError: bytes taken; the next send's first ones
    cdef bytes arrived             # taken from the transport and not yet in `incoming`, or None
    cdef Py_ssize_t held           # at most so many bytes of ciphertext are in OpenSSL's hands
    cdef Py_ssize_t plain          # bytes of the current record that call_read has ready
    cdef uint64_t feeds            # times that input came
    cdef int wanting
    cdef int stale
    # Records, by their headers: which is the first byte that does not belong to a whole one?
    cdef bint framed               # False: what came does not look like records
    cdef uint64_t fed              # bytes of input so far
    cdef uint64_t complete         # of which belong to whole records
    cdef unsigned char header[5]
    cdef int header_have
    cdef Py_ssize_t body_left      # once the header is whole
    cdef Turn reading
    cdef Turn writing
    cdef Turn flushing
    cdef Turn calling

    cdef void frame(self, const unsigned char *data, Py_ssize_t count) noexcept
    cdef int feed(self, const char *data, Py_ssize_t count) except -1    # count 0: the end
    cdef object attempt(self, Py_ssize_t size, char *buffer)             # bytes, or with a buffer an int; None: needs input
    cdef object take_ahead(self, Py_ssize_t size, char *buffer)
    cdef int note_read(self, Py_ssize_t count, Py_ssize_t asked) except -1
    cdef int note_input(self) except -1


cdef class TLSCore(MessageCore):
    # Its base must be that of greenio.socket.socket: SSLSocket has both as bases, and C methods are found by their number.
    cdef Engine engine             # None: not connected yet, unwrapped, shut down or closed: a plain socket
    cdef object transport          # a socket-like object that carries the ciphertext, or None: the descriptor does
    cdef bytes leftover            # what the peer sent after the end of TLS, or None
    cdef public object _context
    cdef public object _session
    cdef public object server_hostname   # as the session gets it: encoded
    cdef public object _given_hostname
    cdef public bint _through_bio        # the session is made by the context's wrap_bio
    cdef public bint server_side
    cdef public bint do_handshake_on_connect
    cdef public bint suppress_ragged_eofs
    cdef public bint _connected

    cdef int64_t limit(self, Scheduler scheduler, int64_t *deadline_ns) except? -2
    cdef object receive_tls(self, Engine engine, Scheduler scheduler, Py_ssize_t size, char *buffer)
    cdef object read_turn(self, Engine engine, Scheduler scheduler, Py_ssize_t size, char *buffer, int64_t *deadline_ns)
    cdef object read_into(self, object buffer, Py_ssize_t size, int flags)
    cdef bytes receive_plain(self, Scheduler scheduler, Py_ssize_t size, int flags)
    cdef Py_ssize_t take_input(self, Engine engine, Scheduler scheduler) except -2
    cdef int want_input(self, Engine engine, Scheduler scheduler, uint64_t seen, str reason, int64_t *deadline_ns) except -1
    cdef int wait_input(self, Engine engine, Scheduler scheduler, str reason, int64_t *deadline_ns) except -1
    cdef int wait_descriptor(self, Engine engine, Scheduler scheduler, str reason, int64_t deadline_ns) except -1
    cdef Py_ssize_t send_tls(self, Engine engine, Scheduler scheduler, const char *data, Py_ssize_t size, bint whole) except -1
    cdef Py_ssize_t encrypt(
        self, Engine engine, Scheduler scheduler, const char *data, Py_ssize_t size, bint *gone, int64_t *deadline_ns) except -1
    cdef bint flush(self, Engine engine, Scheduler scheduler, bint waits, str reason, int64_t *deadline_ns) except -1
    cdef int flush_soon(self, Engine engine, Scheduler scheduler) except -1
    cdef bint send_unsent(self, Engine engine, Scheduler scheduler, bint waits, str reason, int64_t *deadline_ns) except -1
    cdef bint send_unsent_over(self, Engine engine, int64_t deadline_ns, str reason) except -1
    cdef object ask_transport(self, object call, object argument, int64_t deadline_ns)
    cdef object drive(self, Engine engine, Scheduler scheduler, object call, str reason, int64_t *deadline_ns)

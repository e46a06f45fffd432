# _tls.pyx: see _tls.pxd. The path of a request: recv(2), BIO write, SSL_read; SSL_write, BIO read, send(2).
#
# Records are followed by their headers, which TLS does not encrypt. So it is known without asking whether OpenSSL has a whole record
# left, and a read that has none waits for the descriptor without raising SSLWantReadError first.
#
# What waits for a name, a context or a certificate does so in ssl.py.
import os
import ssl as standard

from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from cpython.ref cimport PyObject
from libc.errno cimport EAGAIN, EBADF, EINTR, errno
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy

cimport cython

from greenio._messages cimport MessageCore
from greenio._scheduler cimport (
    caller_of, NEVER, TIMED_OUT, WOKEN, Fiber, Scheduler, Watch, WaitNode, current_scheduler_or_none, current_scheduler_or_raise, leave_io, unpark,
    wait_append)
from greenio._socket cimport SocketCore, bytes_of, recv_call, send_call
from greenio._waiting cimport SERVED, TOO_LATE, Outcome, Place, forks, serve, stand_in_line

from greenio._scopes import timeout_at

cdef extern from "<sys/socket.h>" nogil:
    enum:
        MSG_DONTWAIT
        MSG_NOSIGNAL
        MSG_PEEK

cdef enum:
    RECORD_BYTES = 16384                # plaintext in one record, at most (RFC 8446, 5.1)
    RECORD_BODY_BYTES = 16384 + 2048    # and encrypted, at most (RFC 5246, 6.2.3)
    HEADER_BYTES = 5
    # Taken from the descriptor at once, and given to OpenSSL at once. A BIO never shrinks: this bounds what an idle connection keeps.
    SCRATCH_BYTES = 32 * 1024
    PIECE_BYTES = 32 * 1024
    # Answers to the peer (key updates, refused renegotiations) that wait for room, beyond which nothing is read before they have gone.
    ANSWER_BYTES = 64 * 1024
    UNKNOWN = -2                        # a deadline that nobody has needed yet

# Ciphertext lands here and goes straight on into a BIO. The GIL is held in between, so one is enough for the process.
cdef char scratch[SCRATCH_BYTES]

cdef object SSLError = standard.SSLError
cdef object SSLWantReadError = standard.SSLWantReadError
cdef object SSLWantWriteError = standard.SSLWantWriteError
cdef object SSLEOFError = standard.SSLEOFError
cdef object SSLZeroReturnError = standard.SSLZeroReturnError
cdef object WANT_READ = (int(standard.SSL_ERROR_WANT_READ), "The operation did not complete (read)")
cdef object UNEXPECTED_EOF = (int(standard.SSL_ERROR_EOF), "EOF occurred in violation of protocol")
cdef object WANT_WRITE = (int(standard.SSL_ERROR_WANT_WRITE), "The operation did not complete (write)")


@cython.final
cdef class Window:
    # Memory as a buffer, for one call of _ssl: it looks where the memory is when the call begins, with the GIL, and keeps nothing.
    cdef void *data
    cdef Py_ssize_t size
    cdef bint readonly

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.data, self.size, self.readonly, flags)


cdef Window window = Window()


cdef inline Window window_on(const void *data, Py_ssize_t size, bint readonly):
    window.data = <void *>data
    window.size = size
    window.readonly = readonly
    return window


# --- turns


cdef inline int enter_turn(Turn *turn, Scheduler scheduler, TLSCore sock, str reason, int64_t *deadline_ns) except -1:
    if turn.holder is not NULL and turn.process == forks:
        return wait_turn(turn, scheduler, sock, reason, deadline_ns)
    turn.holder = caller_of(scheduler)
    turn.process = forks
    return 0


cdef inline bint is_taken(Turn *turn) noexcept:
    return turn.holder is not NULL and turn.process == forks


cdef bint stand_for_turn(Turn *turn, Scheduler scheduler, TLSCore sock, str reason, int64_t *deadline_ns) except -1:
    # True: it is ours. False: woken for another reason.
    cdef Place place
    cdef Outcome outcome
    if is_taken(turn):
        if turn.holder is caller_of(scheduler):
            raise RuntimeError(
                f"{sock!r} is in the middle of an operation of this very fiber: a callback of its context cannot use it")
        if sock.never_waits():
            raise SSLWantReadError(*WANT_READ)
        outcome = stand_in_line(&turn.line, &place, scheduler, reason, sock, sock.limit(scheduler, deadline_ns))
        if outcome == SERVED:
            return True
        if is_taken(turn):
            if outcome == TOO_LATE:
                raise timed_out(reason)
            return False
    turn.holder = caller_of(scheduler)
    turn.process = forks
    return True


cdef int wait_turn(Turn *turn, Scheduler scheduler, TLSCore sock, str reason, int64_t *deadline_ns) except -1:
    while not stand_for_turn(turn, scheduler, sock, reason, deadline_ns):
        pass
    return 0


cdef inline void leave_turn(Turn *turn, Scheduler scheduler) noexcept:
    cdef Place *place = NULL
    if turn.holder is not caller_of(scheduler):
        return   # it gave its turn away for a moment, and did not get it back
    if turn.line.first is not NULL:
        place = serve(&turn.line)
    turn.holder = NULL if place is NULL else place.waiter.fiber


cdef inline bint has_orphans(Engine engine) noexcept:
    # Ciphertext that only waits for room, and nobody who sends it.
    return engine.unsent is not None and not engine.broken and not is_taken(&engine.flushing)


cdef object timed_out(str reason):
    return TimeoutError(f"The {reason[4:]} operation timed out")


cdef object system_error(int number):
    return OSError(number, os.strerror(number))


# --- a session


cdef class Engine:
    """One TLS session on a connection: what _ssl made, its two BIOs, and whose turn it is."""

    def __cinit__(self):
        self.framed = True

    cdef void frame(self, const unsigned char *data, Py_ssize_t count) noexcept:
        cdef Py_ssize_t at = 0
        cdef Py_ssize_t step
        while at < count and self.framed:
            if self.header_have < HEADER_BYTES:
                step = min(<Py_ssize_t>HEADER_BYTES - self.header_have, count - at)
                memcpy(&self.header[self.header_have], data + at, step)
                self.header_have += step
                if self.header_have == HEADER_BYTES:
                    self.body_left = self.header[3] << 8 | self.header[4]
                    # Of another kind, OpenSSL says what it is: an SSL 2 hello, another protocol, nonsense.
                    self.framed = 20 <= self.header[0] <= 24 and self.header[1] == 3 and self.body_left <= RECORD_BODY_BYTES
            else:
                step = min(self.body_left, count - at)
                self.body_left -= step
            at += step
            if self.header_have == HEADER_BYTES and self.body_left == 0:
                self.header_have = 0
                self.complete = self.fed + at
        self.fed += count

    cdef int feed(self, const char *data, Py_ssize_t count) except -1:
        # With the turn to call. Nothing is raised but MemoryError.
        if count == 0:
            self.incoming.write_eof()
            self.eof = True
            self.ready = True
        else:
            self.incoming.write(window_on(data, count, True))
            self.frame(<const unsigned char *>data, count)
            self.held += count
            self.ready = not self.framed or self.complete > self.fed - self.held
        self.feeds += 1
        self.stale = self.wanting
        return 0

    cdef object attempt(self, Py_ssize_t size, char *buffer):
        # With the turn to call. Errors are _ssl's.
        cdef Py_ssize_t count
        cdef object data
        size = min(size, self.plain if self.plain else max(<Py_ssize_t>1, min(self.held, <Py_ssize_t>RECORD_BYTES)))
        try:
            if buffer is NULL or not self.direct:
                data = self.call_read(size)
                count = len(data)
                if buffer is not NULL:
                    memcpy(buffer, PyBytes_AS_STRING(data), count)
                    data = count
            else:
                data = self.call_read(size, window_on(buffer, size, False))
                count = data
        except SSLWantReadError:
            self.ready = self.eof
            self.plain = 0
            return None
        self.note_read(count, size)
        return data

    cdef int note_read(self, Py_ssize_t count, Py_ssize_t asked) except -1:
        self.plain = 0
        if count == asked:
            self.plain = self.native.pending()
        self.note_input()
        if self.plain or count == 0:
            self.ready = True
        return 0

    cdef int note_input(self) except -1:
        # With the turn to call, after a call of _ssl: what of the input is left?
        self.held = self.incoming.pending
        self.ready = self.eof or (self.held != 0 and (not self.framed or self.complete > self.fed - self.held))
        return 0

    cdef object take_ahead(self, Py_ssize_t size, char *buffer):
        cdef object data
        cdef Py_ssize_t count = min(size, PyBytes_GET_SIZE(self.ahead) - self.ahead_at)
        cdef const char *start = PyBytes_AS_STRING(self.ahead) + self.ahead_at
        if buffer is NULL:
            data = PyBytes_FromStringAndSize(start, count)
        else:
            memcpy(buffer, start, count)
            data = count
        self.ahead_at += count
        if self.ahead_at == PyBytes_GET_SIZE(self.ahead):
            self.ahead = None
        return data


cdef class TLSCore(MessageCore):
    """A socket that may have TLS on it. greenio.ssl.SSLSocket is the public one."""

    cdef inline int64_t limit(self, Scheduler scheduler, int64_t *deadline_ns) except? -2:
        # The operation's deadline: from the first wait in it on.
        if deadline_ns[0] == UNKNOWN:
            deadline_ns[0] = self.deadline(scheduler)
        return deadline_ns[0]

    # --- set up, by ssl.py

    def _adopt(self, sock):
        """Take over the descriptor of *sock*, a socket of ours or a standard one, which is detached."""
        cdef SocketCore other
        if isinstance(sock, SocketCore):
            other = <SocketCore>sock
            if other.fd < 0:
                raise system_error(EBADF)
            self.domain = other.domain
            self.kind = other.kind
            self.protocol = other.protocol
            self.nonblocking = other.nonblocking
            self.short_means_drained = other.short_means_drained
            self.timeout_seconds = other.timeout_seconds
            if isinstance(other, TLSCore):
                self.leftover = (<TLSCore>other).leftover
                (<TLSCore>other).leftover = None
        else:
            SocketCore.__init__(self, int(sock.family), int(sock.type), sock.proto, sock.fileno())
            self.timeout_seconds = sock.gettimeout()
            self.fd = -1
            self.inner.detach()
            self.inner = None
        self.fd = sock.detach()

    def _carry(self, transport, timeout):
        """Let *transport*, a socket-like object, carry the ciphertext."""
        self.transport = transport
        self.timeout_seconds = timeout

    @property
    def _transport(self):
        return self.transport

    @property
    def _has_tls(self):
        return self.engine is not None

    def _start(self, native, wrapper, incoming, outgoing):
        """Begin a TLS session: *native* and the BIOs it was made on; *wrapper*: an SSLObject of another make around it, or None."""
        cdef Engine engine = Engine()
        engine.native = native
        engine.wrapper = wrapper
        engine.incoming = incoming
        engine.outgoing = outgoing
        for name in ("read", "write", "do_handshake", "unwrap"):
            ours = name if name != "unwrap" else "shutdown"
            overridden = wrapper is not None and getattr(type(wrapper), name, None) is not getattr(standard.SSLObject, name)
            bound = getattr(wrapper, name) if overridden or wrapper is native else getattr(native, ours)
            if name == "read":
                engine.call_read = bound
                engine.direct = not overridden
            elif name == "write":
                engine.call_write = bound
                engine.direct = engine.direct and not overridden
            elif name == "do_handshake":
                engine.call_handshake = bound
            else:
                engine.call_shutdown = bound
        if self.leftover is not None:
            engine.feed(PyBytes_AS_STRING(self.leftover), PyBytes_GET_SIZE(self.leftover))
            self.leftover = None
        self.engine = engine

    def _be_careful(self):
        """From now on no byte beyond the current record is taken from the descriptor, as the standard module has it."""
        self.engine.careful = True

    @property
    def _has_leftover(self):
        return self.leftover is not None

    @property
    def _sslobj(self):
        """What _ssl made for the session, or None without one."""
        return None if self.engine is None else self.engine.native

    def _forget_tls(self):
        self.engine = None

    # --- receive

    cdef object receive_tls(self, Engine engine, Scheduler scheduler, Py_ssize_t size, char *buffer):
        # At least one byte, or none at the end of the stream.
        cdef int64_t deadline_ns = UNKNOWN
        cdef object data
        scheduler.check()
        enter_turn(&engine.reading, scheduler, self, "TLS read", &deadline_ns)
        try:
            data = self.read_turn(engine, scheduler, size, buffer, &deadline_ns)
        except SSLEOFError:
            if not self.suppress_ragged_eofs:
                raise
            data = b"" if buffer is NULL else 0
        except SSLZeroReturnError:
            if not engine.half_closed:
                raise
            data = b"" if buffer is NULL else 0
        finally:
            leave_turn(&engine.reading, scheduler)
        return data

    cdef object read_turn(self, Engine engine, Scheduler scheduler, Py_ssize_t size, char *buffer, int64_t *deadline_ns):
        cdef object data
        cdef object error = None
        cdef Py_ssize_t came
        while True:
            if engine.unsent is not None and engine.outgoing.pending > ANSWER_BYTES:
                # The peer has OpenSSL write answers, and does not read them.
                if not self.flush(engine, scheduler, True, "TLS read", deadline_ns):
                    raise SSLWantWriteError(*WANT_WRITE)
            if engine.ahead is not None:
                return engine.take_ahead(size, buffer)
            if engine.failure is not None:
                error = engine.failure
                engine.failure = None
                raise error
            data = None
            came = -1
            enter_turn(&engine.calling, scheduler, self, "TLS read", deadline_ns)
            try:
                if not engine.ready:
                    came = self.take_input(engine, scheduler)
                if engine.ready:
                    came = 0
                    data = engine.attempt(size, buffer)
            except SSLError as caught:
                error = caught
            finally:
                leave_turn(&engine.calling, scheduler)
            if engine.outgoing.pending:
                try:
                    self.flush_soon(engine, scheduler)   # an answer, or the alert that tells the peer why
                except BaseException:
                    # Over a transport it may park, and be interrupted there.
                    if error is not None:
                        engine.failure = error
                    elif data is not None and engine.ahead is None:
                        engine.ahead = data if buffer is NULL else PyBytes_FromStringAndSize(buffer, data)
                        engine.ahead_at = 0
                        if not engine.ahead:
                            engine.ahead = None   # the end comes again by itself
                    raise
            if error is not None:
                raise error
            if data is not None:
                return data
            if came >= 0:
                # Records without data for us: a peer that has many of them would never let us park.
                scheduler.spend()
                scheduler.check()
                continue
            if engine.stale:
                # Whoever wants input for something else than reading: each has a look before anybody waits again.
                leave_turn(&engine.reading, scheduler)
                if not is_taken(&engine.reading):
                    engine.stale = 0   # they were interrupted, and have yet to run to say so; or are not in this process
                enter_turn(&engine.reading, scheduler, self, "TLS read", deadline_ns)
                continue
            self.wait_input(engine, scheduler, "TLS read", deadline_ns)

    cdef Py_ssize_t take_input(self, Engine engine, Scheduler scheduler) except -2:
        # With the turns to read and to call: what is there, into `incoming`, without waiting. How many bytes, 0: the end; -1: nothing.
        cdef Watch watch
        cdef Py_ssize_t count
        cdef Py_ssize_t size = SCRATCH_BYTES
        if engine.eof:
            engine.ready = True
            return 0
        if engine.arrived is not None:
            engine.feed(PyBytes_AS_STRING(engine.arrived), PyBytes_GET_SIZE(engine.arrived))
            count = PyBytes_GET_SIZE(engine.arrived)
            engine.arrived = None
            return count
        if self.transport is not None:
            return -1
        watch = self.watch_of(scheduler)
        if watch is not None and not watch.readable and not self.never_waits():
            return -1
        if engine.careful or self.never_waits():
            size = HEADER_BYTES - engine.header_have if engine.header_have < HEADER_BYTES else engine.body_left
            if not engine.framed or size > SCRATCH_BYTES:
                size = HEADER_BYTES
        while True:
            count = recv_call(self.fd, scratch, size, MSG_DONTWAIT)
            if count >= 0:
                engine.feed(scratch, count)
                self.note_short_read(watch, count, size, 0)
                return count
            if errno == EAGAIN:
                if not self.never_waits():
                    self.watch_to_wait(scheduler).readable = False
                return -1
            if errno != EINTR:
                scheduler.spend()
                raise system_error(errno)
            PyErr_CheckSignals()

    cdef int wait_input(self, Engine engine, Scheduler scheduler, str reason, int64_t *deadline_ns) except -1:
        # With the turn to read, after take_input found nothing. Returns when there may be something.
        cdef bytes data
        if self.transport is not None:
            try:
                data = self.ask_transport(self.transport.recv, SCRATCH_BYTES, self.limit(scheduler, deadline_ns))
            except BlockingIOError:
                raise SSLWantReadError(*WANT_READ) from None
            except TimeoutError:
                raise timed_out(reason) from None
            engine.arrived = data
            return 0
        if self.never_waits():
            scheduler.spend()
            raise SSLWantReadError(*WANT_READ)
        self.limit(scheduler, deadline_ns)
        self.wait_descriptor(engine, scheduler, reason, deadline_ns[0])
        if has_orphans(engine):
            self.flush_soon(engine, scheduler)
        return 0

    cdef int wait_descriptor(self, Engine engine, Scheduler scheduler, str reason, int64_t deadline_ns) except -1:
        # Until there may be input; or room, if there is ciphertext that nobody sends: a read's answer, or what a send left behind that was
        # interrupted. The peer may be waiting for that.
        cdef WaitNode reads
        cdef WaitNode writes
        cdef int wake = WOKEN
        cdef Watch watch = self.watch_to_wait(scheduler)
        reads.fiber = NULL
        writes.fiber = NULL
        wait_append(&watch.readers, &reads, caller_of(scheduler))
        scheduler.io_waiting += 1
        engine.waiter = caller_of(scheduler)
        engine.waiter_process = forks
        try:
            while True:
                if watch.closed:
                    raise OSError(EBADF, f"the descriptor was closed during {reason}")
                if watch.readers.first is &reads and watch.readable:
                    return 0
                if has_orphans(engine):
                    if writes.fiber is NULL:
                        wait_append(&watch.writers, &writes, caller_of(scheduler))
                    if watch.writers.first is &writes and watch.writable:
                        return 0
                elif writes.fiber is not NULL:
                    leave_io(watch, True, &writes)
                if wake == TIMED_OUT:
                    raise timed_out(reason)
                wake = scheduler.park(reason, self, deadline_ns)
        finally:
            engine.waiter = NULL
            scheduler.io_waiting -= 1
            leave_io(watch, False, &reads)
            leave_io(watch, True, &writes)

    cdef int want_input(self, Engine engine, Scheduler scheduler, uint64_t seen, str reason, int64_t *deadline_ns) except -1:
        # For whom OpenSSL told to read first, when `seen` inputs had come: returns once there was another one, from whomever.
        cdef Py_ssize_t came = -1
        if engine.feeds != seen:
            return 0
        engine.wanting += 1
        try:
            while not stand_for_turn(&engine.reading, scheduler, self, reason, deadline_ns):
                if engine.feeds != seen:
                    return 0
        finally:
            engine.wanting -= 1
            if engine.feeds != seen and engine.stale > 0:
                engine.stale -= 1
        try:
            while engine.feeds == seen:
                enter_turn(&engine.calling, scheduler, self, reason, deadline_ns)
                try:
                    came = self.take_input(engine, scheduler)
                finally:
                    leave_turn(&engine.calling, scheduler)
                if came < 0:
                    self.wait_input(engine, scheduler, reason, deadline_ns)
                elif engine.eof:
                    return 0
        finally:
            leave_turn(&engine.reading, scheduler)
        return 0

    # --- send

    cdef Py_ssize_t send_tls(self, Engine engine, Scheduler scheduler, const char *data, Py_ssize_t size, bint whole) except -1:
        # All of it, or a piece if not `whole`. What it raises has `bytes_sent`.
        cdef int64_t deadline_ns = UNKNOWN
        cdef Py_ssize_t sent = 0
        cdef Py_ssize_t count
        cdef bint gone
        try:
            scheduler.check()
            enter_turn(&engine.writing, scheduler, self, "TLS write", &deadline_ns)
            try:
                if (engine.unsent is not None or engine.taken) and not self.flush(
                        engine, scheduler, True, "TLS write", &deadline_ns):
                    raise SSLWantWriteError(*WANT_WRITE)
                if engine.taken:
                    # A send that could not wait had taken these, and its caller was told to come again with them.
                    if engine.taken > size:
                        raise SSLError(1, f"bad write retry: the last send took {engine.taken} bytes, this one brings {size}")
                    sent = engine.taken
                    engine.taken = 0
                    whole = whole and sent < size
                while sent < size and (whole or sent == 0):
                    count = min(size - sent, <Py_ssize_t>(PIECE_BYTES if whole else RECORD_BYTES))
                    gone = False
                    sent += self.encrypt(engine, scheduler, data + sent, count, &gone, &deadline_ns)
                    if not gone and not self.flush(engine, scheduler, True, "TLS write", &deadline_ns):
                        if not whole:
                            engine.taken = sent
                        raise SSLWantWriteError(*WANT_WRITE)
                    if sent < size and whole:
                        scheduler.spend()   # a peer that reads as fast as we write would never let us park
                        scheduler.check()
            finally:
                leave_turn(&engine.writing, scheduler)
        except BaseException as error:
            error.bytes_sent = 0 if engine.taken else sent
            raise
        return sent

    cdef Py_ssize_t encrypt(self, Engine engine, Scheduler scheduler, const char *data, Py_ssize_t size,
                            bint *gone, int64_t *deadline_ns) except -1:
        # Returns how many bytes OpenSSL took; `gone`: the kernel has all there was to send.
        cdef Py_ssize_t taken = -1
        cdef Py_ssize_t count
        cdef uint64_t seen
        cdef bytes cipher
        cdef Watch watch
        while True:
            seen = engine.feeds
            enter_turn(&engine.calling, scheduler, self, "TLS write", deadline_ns)
            try:
                if engine.direct:
                    taken = engine.call_write(window_on(data, size, True))
                else:
                    taken = engine.call_write(PyBytes_FromStringAndSize(data, size))
                watch = self.watch_of(scheduler)
                if (engine.unsent is None and self.transport is None and not is_taken(&engine.flushing)
                        and (watch is None or watch.writable)):
                    # As flush, in one go: nobody else runs in between.
                    cipher = engine.outgoing.read()
                    count = send_call(self.fd, PyBytes_AS_STRING(cipher), PyBytes_GET_SIZE(cipher), MSG_DONTWAIT | MSG_NOSIGNAL)
                    gone[0] = count == PyBytes_GET_SIZE(cipher)
                    if not gone[0]:
                        engine.unsent = cipher
                        engine.unsent_at = max(<Py_ssize_t>0, count)   # what has failed fails again, in flush
                return taken
            except SSLWantReadError:
                if engine.eof:
                    raise SSLEOFError(*UNEXPECTED_EOF) from None
            finally:
                leave_turn(&engine.calling, scheduler)
            if not self.flush(engine, scheduler, True, "TLS write", deadline_ns):
                raise SSLWantWriteError(*WANT_WRITE)
            self.want_input(engine, scheduler, seen, "TLS write", deadline_ns)

    cdef bint flush(self, Engine engine, Scheduler scheduler, bint waits, str reason, int64_t *deadline_ns) except -1:
        # What OpenSSL has written, to the kernel. True: all of it. False: there is no room, and this does not wait for any.
        enter_turn(&engine.flushing, scheduler, self, reason, deadline_ns)
        try:
            while True:
                if engine.unsent is None:
                    enter_turn(&engine.calling, scheduler, self, reason, deadline_ns)
                    try:
                        engine.unsent = engine.outgoing.read()
                    finally:
                        leave_turn(&engine.calling, scheduler)
                    engine.unsent_at = 0
                    if not engine.unsent:
                        engine.unsent = None
                        return True
                if not self.send_unsent(engine, scheduler, waits, reason, deadline_ns):
                    return False
        finally:
            leave_turn(&engine.flushing, scheduler)
            if engine.waiter is not NULL and engine.waiter_process == forks and has_orphans(engine):
                unpark(<Fiber>engine.waiter, WOKEN)   # it waits for input only, so far

    cdef int flush_soon(self, Engine engine, Scheduler scheduler) except -1:
        # The same for what a read has left: it does not fail for that. Whoever is flushing goes on until nothing is left.
        cdef int64_t deadline_ns = UNKNOWN
        if not is_taken(&engine.flushing):
            try:
                self.flush(engine, scheduler, False, "TLS write", &deadline_ns)
            except OSError:
                pass
        return 0

    cdef bint send_unsent(self, Engine engine, Scheduler scheduler, bint waits, str reason, int64_t *deadline_ns) except -1:
        cdef WaitNode node
        cdef Py_ssize_t count
        cdef Watch watch
        if self.transport is not None:
            return self.send_unsent_over(engine, self.limit(scheduler, deadline_ns), reason)
        while True:
            watch = self.watch_of(scheduler)
            if watch is None or watch.writable or self.never_waits():
                count = send_call(
                    self.fd, PyBytes_AS_STRING(engine.unsent) + engine.unsent_at, PyBytes_GET_SIZE(engine.unsent) - engine.unsent_at,
                    MSG_DONTWAIT | MSG_NOSIGNAL)
                if count >= 0:
                    engine.unsent_at += count
                    if engine.unsent_at == PyBytes_GET_SIZE(engine.unsent):
                        engine.unsent = None
                        return True
                elif errno == EINTR:
                    PyErr_CheckSignals()
                elif errno != EAGAIN:
                    engine.broken = True
                    raise system_error(errno)
                elif self.never_waits():
                    scheduler.spend()
                    return False
                else:
                    self.watch_to_wait(scheduler).writable = False
                continue
            if not waits:
                return False
            self.limit(scheduler, deadline_ns)
            node.fiber = NULL
            try:
                scheduler.wait_io(watch, True, &node, deadline_ns[0], reason, self)
            except TimeoutError:
                raise timed_out(reason) from None
            finally:
                leave_io(watch, True, &node)

    cdef bint send_unsent_over(self, Engine engine, int64_t deadline_ns, str reason) except -1:
        # Through the transport, which may park: also in a read, for whoever holds a session on a session.
        cdef Py_ssize_t count
        cdef object rest
        while True:
            rest = engine.unsent if engine.unsent_at == 0 else engine.unsent[engine.unsent_at:]
            count = 0
            try:
                count = self.ask_transport(self.transport.send, rest, deadline_ns)
            except (BlockingIOError, SSLWantWriteError, SSLWantReadError):
                return False
            except BaseException as error:
                count = getattr(error, "bytes_sent", 0)
                if isinstance(error, TimeoutError):
                    raise timed_out(reason) from None
                engine.broken = isinstance(error, Exception)
                raise
            finally:
                engine.unsent_at += count
                if engine.unsent_at >= PyBytes_GET_SIZE(engine.unsent):
                    engine.unsent = None
            if engine.unsent is None:
                return True

    cdef object ask_transport(self, object call, object argument, int64_t deadline_ns):
        # call(argument), which parks no longer than until the deadline. What it says of its progress stays in `bytes_sent`.
        cdef object sent = None
        if deadline_ns == NEVER or self.never_waits():
            return call(argument)
        try:
            with timeout_at(deadline_ns / 1e9):
                try:
                    return call(argument)
                except BaseException as error:
                    sent = getattr(error, "bytes_sent", None)
                    raise
        except TimeoutError as error:
            if sent is not None:
                error.bytes_sent = sent   # its own, if it raised this; or that of the Cancelled, which ended at the scope
            raise

    # --- handshake, and the end

    cdef object drive(self, Engine engine, Scheduler scheduler, object call, str reason, int64_t *deadline_ns):
        # What takes messages there and back, to its end: call() until it wants no more.
        cdef uint64_t seen
        cdef object error
        cdef object result
        cdef bint wants
        while True:
            seen = engine.feeds
            error = result = None
            wants = False
            enter_turn(&engine.calling, scheduler, self, reason, deadline_ns)
            try:
                try:
                    result = call()
                finally:
                    engine.note_input()
            except SSLWantReadError:
                wants = True
                if engine.eof:
                    error = SSLEOFError(*UNEXPECTED_EOF)
            except BaseException as caught:
                error = caught
            finally:
                leave_turn(&engine.calling, scheduler)
            if error is not None:
                self.flush_soon(engine, scheduler)   # the alert that tells the peer why
                if isinstance(error, SSLError):
                    scheduler.check()   # of a callback that was interrupted OpenSSL knows only that it failed
                raise error
            if not self.flush(engine, scheduler, True, reason, deadline_ns):
                raise SSLWantWriteError(*WANT_WRITE)
            if not wants:
                return result
            self.want_input(engine, scheduler, seen, reason, deadline_ns)
            scheduler.spend()
            scheduler.check()

    def do_handshake(self, block=False):
        """Agree with the peer on keys, and verify it as the context says. Parks; the socket's timeout is for the whole.

        Args:
            block: wait even if the timeout is 0.
        Raises:
            SSLCertVerificationError, SSLError: it failed; the peer was told. Close the socket.
            TimeoutError, Cancelled: it is under way still: call again, or close.
            SSLWantReadError, SSLWantWriteError: the timeout is 0 and it would have had to wait: call again.
            OSError: as the connection says.
        """
        cdef Scheduler scheduler = current_scheduler_or_raise()
        cdef Engine engine = self.engine
        cdef int64_t deadline_ns = UNKNOWN
        if engine is None:
            if self.fd >= 0:
                self.getpeername()
            raise ValueError(f"No SSL wrapper around {self!r}")
        if block and self.never_waits():
            self.settimeout(None)
            try:
                self.do_handshake()
            finally:
                self.settimeout(0.0)
            return
        scheduler.check()
        self.limit(scheduler, &deadline_ns)
        self.drive(engine, scheduler, engine.call_handshake, "TLS handshake", &deadline_ns)
        scheduler.spend()

    def unwrap(self):
        """End TLS both ways: send close_notify, wait for the peer's; returns the socket, which is a plain one from now on.

        What the peer sent after its close_notify is what recv returns next. Parks; the socket's timeout is for the whole.

        Raises:
            ValueError: there is no TLS on it.
            TimeoutError, Cancelled: close_notify may have been sent: call again, or close.
            SSLError, OSError: the peer sent data instead, or went away. Close the socket.
        """
        cdef Scheduler scheduler = current_scheduler_or_raise()
        cdef Engine engine = self.engine
        cdef int64_t deadline_ns = UNKNOWN
        if engine is None:
            raise ValueError(f"No SSL wrapper around {self!r}")
        scheduler.check()
        enter_turn(&engine.writing, scheduler, self, "TLS shutdown", &deadline_ns)
        careful = engine.careful
        engine.careful = True
        engine.half_closed = True
        try:
            self.drive(engine, scheduler, engine.call_shutdown, "TLS shutdown", &deadline_ns)
        finally:
            engine.careful = careful
            leave_turn(&engine.writing, scheduler)
        if self.engine is engine:
            self.leftover = engine.incoming.read() or None
            self.engine = None
        scheduler.spend()
        return self

    def close_notify(self):
        """Tell the peer that nothing more will be sent, and go on receiving: TLS's half-close. Parks for room only.

        Not in the standard module. A later send raises SSLError; unwrap waits for the peer's own close_notify.

        Raises:
            ValueError: there is no TLS on it.
            TimeoutError, Cancelled: it goes out before anything else that this socket sends: call again to be sure.
        """
        cdef Scheduler scheduler = current_scheduler_or_raise()
        cdef Engine engine = self.engine
        cdef int64_t deadline_ns = UNKNOWN
        cdef bytes kept = b""
        if engine is None:
            raise ValueError(f"No SSL wrapper around {self!r}")
        scheduler.check()
        enter_turn(&engine.writing, scheduler, self, "TLS shutdown", &deadline_ns)
        try:
            enter_turn(&engine.calling, scheduler, self, "TLS shutdown", &deadline_ns)
            try:
                # Nothing to read for OpenSSL: it would go on to look for the peer's close_notify, and throw away data on the way.
                while engine.native.pending():
                    engine.ahead = (b"" if engine.ahead is None else engine.ahead[engine.ahead_at:]) + engine.call_read(RECORD_BYTES)
                    engine.ahead_at = 0
                if not engine.eof:
                    kept = engine.incoming.read()
                engine.half_closed = True
                try:
                    engine.call_shutdown()
                except (SSLWantReadError, SSLEOFError):
                    pass
                finally:
                    if kept:
                        engine.incoming.write(kept)
                    engine.note_input()
            finally:
                leave_turn(&engine.calling, scheduler)
            if not self.flush(engine, scheduler, True, "TLS shutdown", &deadline_ns):
                raise SSLWantWriteError(*WANT_WRITE)
        finally:
            leave_turn(&engine.writing, scheduler)
        scheduler.spend()

    def pending(self):
        """Bytes that recv returns without looking at the descriptor; 0 says that a look there is worth while."""
        cdef Engine engine = self.engine
        cdef Scheduler scheduler = current_scheduler_or_none()
        cdef object data
        if engine is None:
            return 0
        if engine.ahead is not None:
            return PyBytes_GET_SIZE(engine.ahead) - engine.ahead_at
        if (engine.ready and not engine.plain and not engine.eof and engine.failure is None
                and not is_taken(&engine.reading) and not is_taken(&engine.calling)):
            # Unlike the standard module, this one takes more than a record at once. What is whole counts.
            if scheduler is not None:
                engine.calling.holder = engine.reading.holder = caller_of(scheduler)
                engine.calling.process = engine.reading.process = forks
            try:
                data = engine.attempt(RECORD_BYTES, NULL)
                if data:
                    engine.ahead = data
                    engine.ahead_at = 0
                    return len(data)
            except Exception as error:
                engine.failure = error
            finally:
                if scheduler is not None:
                    leave_turn(&engine.calling, scheduler)
                    leave_turn(&engine.reading, scheduler)
        return engine.native.pending()

    # --- a socket's names

    cdef Py_ssize_t receive(self, Scheduler scheduler, char *buffer, Py_ssize_t size, int flags) except -1:
        # *buffer* is the caller's own: _ssl lets the GIL go while it writes there.
        cdef bytes data
        cdef Py_ssize_t count
        if self.engine is not None:
            if flags:
                refuse_flags(self, flags, "recv_into")
            return self.receive_tls(self.engine, scheduler, size, buffer)
        if self.transport is None and self.leftover is None:
            return SocketCore.receive(self, scheduler, buffer, size, flags)
        data = self.receive_plain(scheduler, size, flags)
        count = min(size, PyBytes_GET_SIZE(data))
        memcpy(buffer, PyBytes_AS_STRING(data), count)
        return count

    cdef bytes receive_plain(self, Scheduler scheduler, Py_ssize_t size, int flags):
        cdef bytes data
        if self.leftover is None:
            if flags:
                raise ValueError(f"no flags without a descriptor of its own: {self!r}")
            return self.ask_transport(self.transport.recv, size, self.deadline(scheduler))
        scheduler.check()
        data = self.leftover[:size]
        if not flags & MSG_PEEK:
            self.leftover = self.leftover[size:] or None
        return data

    cdef Py_ssize_t transmit(self, Scheduler scheduler, const char *data, Py_ssize_t size, int flags, bint whole) except -1:
        if self.engine is not None:
            if flags:
                refuse_flags(self, flags, "sendall" if whole else "send")
            return self.send_tls(self.engine, scheduler, data, size, whole)
        if self.transport is None:
            return SocketCore.transmit(self, scheduler, data, size, flags, whole)
        if flags:
            raise ValueError(f"no flags without a descriptor of its own: {self!r}")
        count = self.ask_transport(
            self.transport.sendall if whole else self.transport.send, PyBytes_FromStringAndSize(data, size), self.deadline(scheduler))
        return size if whole else count

    def recv(self, Py_ssize_t buflen=1024, int flags=0):
        """Receive at most *buflen* bytes; b"" at the end of the stream. Parks while there are none.

        An end without the peer's close_notify is an end too, unless suppress_ragged_eofs is off.

        Raises:
            TimeoutError, Cancelled: nothing was taken.
            SSLError: what came is no TLS, or was tampered with. SSLEOFError: the end came without close_notify.
            SSLWantReadError: the timeout is 0 and nothing is there.
            ValueError: *flags* is not 0. OSError: as the connection says; EBADF if the socket is closed, also while it waits.
        """
        cdef Scheduler scheduler = current_scheduler_or_raise()
        cdef Engine engine = self.engine
        cdef object data
        if engine is None:
            if self.transport is None and self.leftover is None:
                return SocketCore.recv(self, buflen, flags)
            return self.receive_plain(scheduler, buflen, flags)
        if flags:
            refuse_flags(self, flags, "recv")
        if buflen <= 0:
            scheduler.check()
            if buflen < 0:
                raise ValueError("size should not be negative")
            return b""
        data = self.receive_tls(engine, scheduler, buflen, NULL)
        scheduler.spend()
        return data

    def recv_into(self, buffer, nbytes=None, int flags=0):
        """Receive into *buffer*, at most *nbytes* or as much as it holds; returns how many bytes, 0 at the end. Parks as recv, and
        raises what it does; *buffer* is as it was then.
        """
        cdef Engine engine = self.engine
        if engine is None:
            if self.transport is None and self.leftover is None:
                return SocketCore.recv_into(self, buffer, nbytes or 0, flags)
            return self.read_into(buffer, nbytes or 0, flags)
        if flags:
            refuse_flags(self, flags, "recv_into")
        if buffer is None:
            return self.recv(1024 if nbytes is None else nbytes)
        return self.read_into(buffer, nbytes or 0, 0)

    cdef object read_into(self, object buffer, Py_ssize_t size, int flags):
        # *size* <= 0, or more than there is room for: as much as there is.
        cdef Scheduler scheduler = current_scheduler_or_raise()
        cdef Py_buffer view
        cdef Py_ssize_t count = 0
        PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
        try:
            if size <= 0 or size > view.len:
                size = view.len
            if size == 0:
                scheduler.check()
            else:
                count = self.receive(scheduler, <char *>view.buf, size, flags)
        finally:
            PyBuffer_Release(&view)
        scheduler.spend()
        return count

    def read(self, Py_ssize_t len=1024, buffer=None):
        """Receive at most *len* bytes as recv does; into *buffer*, if given: then it returns how many.

        Raises:
            ValueError: there is no TLS on the socket, or not any more. The rest: as recv.
        """
        if self.engine is None:
            raise ValueError("Read on closed or unwrapped SSL socket.")
        if buffer is None:
            return self.recv(len)
        return self.read_into(buffer, len, 0)

    def write(self, data):
        """Send some of *data*, a record at most; returns how many bytes. As send, but for a socket with TLS only.

        Raises:
            ValueError: there is no TLS on the socket, or not any more. The rest: as send.
        """
        if self.engine is None:
            raise ValueError("Write on closed or unwrapped SSL socket.")
        return self.send(data)

    def send(self, data, int flags=0):
        """Send some of *data*, a record (16 KiB) at most; returns how many bytes. Parks while there is no room.

        Raises:
            TimeoutError, Cancelled, OSError: the first bytes_sent bytes (an attribute of the exception) belong to the stream: those the kernel
                had no room for go out before anything else, with the next call that sends or receives. The stream stays whole: go
                on with data[bytes_sent:].
            SSLWantWriteError: the timeout is 0: call again with the same data.
            ValueError: *flags* is not 0.
        """
        cdef Scheduler scheduler = current_scheduler_or_raise()
        cdef Py_buffer view
        cdef Py_ssize_t count
        bytes_of(data, &view)
        try:
            count = self.transmit(scheduler, <const char *>view.buf, view.len, flags, False)
        finally:
            PyBuffer_Release(&view)
        scheduler.spend()
        return count

    def sendall(self, data, int flags=0):
        """Send all of *data*, in one piece: what other fibers send on this socket comes before or after. Parks for room.

        Raises:
            TimeoutError, Cancelled, OSError, SSLWantWriteError: the first bytes_sent bytes (an attribute of the exception) belong to
                the stream: those the kernel had no room for go out before anything else, with the next call that sends or receives;
                sendall(b"") does nothing but that. The stream stays whole: go on with data[bytes_sent:], or with anything else that makes
                sense after those. The timeout is for the whole.
            ValueError: *flags* is not 0.
        """
        cdef Scheduler scheduler = current_scheduler_or_raise()
        cdef Py_buffer view
        bytes_of(data, &view)
        try:
            self.transmit(scheduler, <const char *>view.buf, view.len, flags, True)
        except BaseException as error:
            if not hasattr(error, "bytes_sent"):
                error.bytes_sent = 0
            raise
        finally:
            PyBuffer_Release(&view)
        scheduler.spend()

    def settimeout(self, timeout):
        """How long one call may wait, in seconds: None for ever, 0 not at all (SSLWantReadError, SSLWantWriteError instead).

        Raises:
            ValueError: *timeout* is negative. OSError (EBADF): the socket is closed.
        """
        if self.transport is None:
            SocketCore.settimeout(self, timeout)
            return
        new = None if timeout is None else float(timeout)
        if new is not None and not new >= 0:
            raise ValueError("Timeout value out of range")
        self.transport.settimeout(0.0 if new == 0 else None)   # the deadline of an operation is kept here
        self.timeout_seconds = new

    def shutdown(self, int how):
        """Close one direction of the connection, or both, at once: without close_notify, and TLS ends here. See unwrap and close_notify."""
        self.engine = None
        if self.transport is not None:
            self.transport.shutdown(how)
        else:
            SocketCore.shutdown(self, how)

    def detach(self):
        """Give the descriptor away, open, and forget it; TLS ends here. Who waits on it gets OSError (EBADF). -1 if it is closed."""
        self.engine = None
        self.leftover = None
        if self.transport is not None:
            self._closed = True
            return self.transport.detach()
        return SocketCore.detach(self)

    def _real_close(self):
        self.engine = None
        self.leftover = None
        if self.transport is not None:
            self.transport.close()
        else:
            SocketCore._real_close(self)


cdef int refuse_flags(TLSCore sock, int flags, str name) except -1:
    raise ValueError(f"non-zero flags not allowed in calls to {name}() on {type(sock)}")

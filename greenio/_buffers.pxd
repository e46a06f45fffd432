# _buffers.pxd: what a buffered file holds. Raw files are below, io's classes around it (_buffers.pyx); text is on top (_file_text.py).
#
# Everything wants the GIL and may be called from any fiber and any OS thread; nothing here needs fibers, the raw file may.
#
# Invariants:
#   - at most one of `ahead` and `pending` has anything in it;
#   - raw reads, writes and moves are made by who holds `lock`, and only that one adds to `ahead`. What is ahead may be taken without
#     the lock while nobody has it, and bytes be added to `pending` at any time: neither parks;
#   - what has been read is in `ahead` (or the caller's own buffer) before anything may park, and what was accepted in `pending`
#     until it is written: an exception loses neither;
#   - no bytearray changes its size once a raw file may have seen it: one that keeps the memoryview it was given finds memory there.
from greenio._io cimport Descriptor
from greenio._sync cimport Lock


cdef class Buffer:
    cdef readonly object raw           # None once detached
    cdef Descriptor descriptor         # the raw file's own, which knows for little whether it is open; None: the raw file is not ours
    cdef readonly Lock lock
    cdef public Py_ssize_t size        # bytes: of a raw read, and up to which a write is just added to `pending`
    cdef object ahead                  # [start, end) of it has been read and not yet taken; None: nothing, and no room
    cdef char *at                      # its first byte
    cdef Py_ssize_t room               # bytes that it has room for: a bytearray's size; 0 for bytes, which `receive` brought
    cdef Py_ssize_t start
    cdef Py_ssize_t end
    cdef bytearray pending             # accepted and not yet written
    cdef readonly bint reads
    cdef readonly bint writes
    cdef bint whole                    # calls to the raw file are not cancelled: standard text is on top, which loses what it holds
    cdef bint receives                 # the raw file is a SocketIO, and its socket's recv does as recv_into: no room is kept while it waits
    cdef bint given_up                 # closed or detached: what a read that was under way brings has no place any more
    cdef bint on_disk                  # raw reads are dear, and wait for nobody
    cdef public bint takes_all         # whatever is written is accepted, and flush does nothing: text is handed over, nothing parks

    cdef int require_attached(self) except -1
    cdef bint is_closed(self) except -1
    cdef int require_open(self, str what) except -1
    cdef object call(self, object method, object argument)
    cdef void forget(self) noexcept

    cdef int put_back(self, bytes data) except -1

    # Out of what is ahead: as bytes, to C memory, away.
    cdef object taken(self, Py_ssize_t count)
    cdef Py_ssize_t copy_out(self, char *target, Py_ssize_t count) noexcept
    cdef inline void drop(self, Py_ssize_t count) noexcept

    # Reading. The raw calls return WOULD_BLOCK where the raw file says None.
    cdef Py_ssize_t raw_read(self, object target, Py_ssize_t size) except -2
    cdef object receive(self, Py_ssize_t size)
    cdef Py_ssize_t fill(self, Py_ssize_t wanted) except -2
    cdef int make_room(self, Py_ssize_t size) except -1
    cdef int hold(self, const char *data, Py_ssize_t count) except -1
    cdef int begin_reading(self) except -1
    cdef object read(self, Py_ssize_t size)
    cdef object read_all(self)
    cdef object read_waiting(self, Py_ssize_t size)
    cdef object read1(self, Py_ssize_t size)
    cdef object read_into(self, object target, bint once)
    cdef object peek(self)
    cdef object readline(self, Py_ssize_t limit)
    cdef object readline_waiting(self, Py_ssize_t limit)

    # Writing.
    cdef Py_ssize_t raw_write(self, object data, Py_ssize_t size) except -2
    cdef int drain_to(self, Py_ssize_t target) except -1
    cdef int rewind(self) except -1
    cdef inline bint has_room(self, Py_ssize_t size) noexcept
    cdef object write(self, object data)
    cdef int write_waiting(self, object data, Py_ssize_t size, Py_ssize_t *accepted) except -1
    cdef int flush(self) except -1

    cdef object tell(self)
    cdef object seek(self, offset, whence)
    cdef object truncate(self, size)
    # `file`: the io object that is closed.
    cdef int close(self, object file) except -1
    cdef int write_last(self, object raw) except -1

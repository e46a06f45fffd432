# poller.pyx: the table of descriptors, shared by all pollers. The contract is in poller.pxd.
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdlib cimport free, realloc
from libc.string cimport memset

cdef class Entry:
    """One descriptor in one poller; a subclass says what happens when it is ready.

    Attributes:
        fd: the descriptor, or -1 once it was removed.
    """

    def __cinit__(self, int fd, *args):
        if fd < 0:
            raise ValueError(f"a descriptor is >= 0, not {fd}")
        self.fd = fd

    cpdef int ready(self, int flags) except -1:
        """Called by the poller's wait, on its OS thread: readiness changed to *flags* (READABLE, …: an edge, not a state)."""
        return 0


cdef class Poller:
    """Base of the pollers. On its own it has the table and no kernel: for tests that script readiness.

    Attributes:
        registered: how many entries it has.
        wake_fd: an eventfd: eight bytes written here wake, without the GIL; -1 if it has none.
        poll_fd: a descriptor that is readable when there is something to tell, for others to look at; -1 if it has none.
    """

    def __cinit__(self):
        self.wake_fd = -1
        self.poll_fd = -1

    def __dealloc__(self):
        self.forget_all()
        free(self.table)

    cpdef int add(self, Entry entry) except -1:
        """Register entry.fd, edge-triggered, for both directions; the entry is told at once if it is ready already.

        Raises:
            OSError, ValueError: the kernel refused, the descriptor is registered already. Nothing has changed.
        """
        return self.put(entry)

    cpdef int remove(self, Entry entry) except -1:
        """Take *entry* out, before its descriptor is closed: it is told nothing any more. One that is out stays out."""
        return self.take(entry)

    cpdef bint holds(self, Entry entry) except -1:
        """Whether the kernel still has *entry*: not if its descriptor was closed without `remove`."""
        return entry.fd >= 0 and entry.fd < self.table_size and self.table[entry.fd] is <PyObject *>entry

    cpdef Py_ssize_t wait(self, int64_t timeout_ns) except -1:
        """Tell the entries what has happened, waiting for it if nothing has.

        Args:
            timeout_ns: the longest wait; 0 does not wait, below 0 waits for ever. The GIL is let go only to wait.
        Returns:
            How many events came; 0 also when woken, or interrupted by a signal.
        """
        raise NotImplementedError("a poller must say how it waits")

    cpdef int wake(self) except -1:
        """End a wait that is under way, or the next one. From any OS thread."""
        return 0

    cpdef int close(self) except -1:
        """Forget every entry and give the kernel's objects back. Again: does nothing."""
        self.forget_all()
        return 0

    cpdef int after_fork(self) except -1:
        """In a forked child: forget what was registered, and start anew without a word to the parent's kernel object."""
        self.forget_all()
        return 0

    cdef int put(self, Entry entry) except -1:
        cdef Py_ssize_t size
        cdef PyObject **table
        if entry.fd < 0:
            raise ValueError("the entry was removed; make another one")
        if entry.fd >= self.table_size:
            size = max(64, 2 * self.table_size, entry.fd + 1)
            table = <PyObject **>realloc(self.table, size * sizeof(PyObject *))
            if table is NULL:
                raise MemoryError(f"no table for {size} descriptors")
            memset(table + self.table_size, 0, (size - self.table_size) * sizeof(PyObject *))
            self.table = table
            self.table_size = size
        if self.table[entry.fd] is not NULL:
            raise ValueError(f"descriptor {entry.fd} is registered already")
        self.generation += 1
        entry.generation = self.generation
        Py_INCREF(entry)
        self.table[entry.fd] = <PyObject *>entry
        self.registered += 1
        return 0

    cdef int take(self, Entry entry) except -1:
        cdef int fd = entry.fd
        entry.fd = -1
        if fd >= 0 and fd < self.table_size and self.table[fd] is <PyObject *>entry:
            self.table[fd] = NULL
            self.registered -= 1
            Py_DECREF(entry)
        return 0

    cdef Entry find(self, int fd, uint32_t generation):
        cdef Entry entry
        if fd < 0 or fd >= self.table_size or self.table[fd] is NULL:
            return None
        entry = <Entry>self.table[fd]
        return entry if entry.generation == generation else None

    def entry(self, int fd):
        """The entry registered under *fd*, or None."""
        if 0 <= fd < self.table_size and self.table[fd] is not NULL:
            return <Entry>self.table[fd]
        return None

    cdef void forget_all(self) noexcept:
        cdef Py_ssize_t fd
        cdef PyObject *entry
        self.registered = 0
        for fd in range(self.table_size):
            entry = self.table[fd]
            if entry is not NULL:
                self.table[fd] = NULL
                (<Entry>entry).fd = -1
                Py_DECREF(<Entry>entry)

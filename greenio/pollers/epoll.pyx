# epoll.pyx: epoll(7), edge-triggered. System calls only; the table is poller.pyx's.
#
# The eventfd that wakes is registered edge-triggered and never read: each write is an edge of its own, and a counter
# of 64 bits does not fill. epoll_pwait2 (Linux 5.11) waits with nanoseconds; older kernels get milliseconds, rounded up.
from cpython.exc cimport PyErr_SetFromErrno
from libc.errno cimport EINTR, ENOENT, ENOSYS, EBADF, errno
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from cpython.ref cimport PyObject
from posix.unistd cimport close, write

from greenio.pollers.poller cimport (
    FAILED, HANG_UP, PEER_CLOSED, READABLE, URGENT, WRITABLE, Entry, Poller)

cdef extern from "<sys/epoll.h>" nogil:
    enum:
        EPOLL_CLOEXEC
        EPOLL_CTL_ADD
        EPOLL_CTL_DEL
        EPOLL_CTL_MOD
        EPOLLIN
        EPOLLOUT
        EPOLLPRI
        EPOLLERR
        EPOLLHUP
        EPOLLRDHUP
    const uint32_t EPOLLET
    int epoll_create1(int flags)
    int epoll_ctl(int epoll_fd, int operation, int fd, epoll_event *event)

cdef extern from "<sys/eventfd.h>" nogil:
    enum:
        EFD_CLOEXEC
        EFD_NONBLOCK
    int eventfd(unsigned int value, int flags)

cdef extern from * nogil:
    """
    #include <errno.h>
    #include <limits.h>
    #include <sys/epoll.h>
    #include <sys/syscall.h>
    #include <time.h>
    #include <unistd.h>

    static int greenio_epoll_wait(int epoll_fd, struct epoll_event *events, int room, int64_t timeout_ns)
    {
    #ifdef SYS_epoll_pwait2
        static int missing;
        if (timeout_ns > 0 && !missing) {
            struct timespec timeout = {timeout_ns / 1000000000, timeout_ns % 1000000000};
            int count = (int)syscall(SYS_epoll_pwait2, epoll_fd, events, room, &timeout, NULL, 0);
            if (count >= 0 || errno != ENOSYS)
                return count;
            missing = 1;
        }
    #endif
        int64_t timeout_ms = timeout_ns < 0 ? -1 : (timeout_ns + 999999) / 1000000;
        return epoll_wait(epoll_fd, events, room, timeout_ms > INT_MAX ? INT_MAX : (int)timeout_ms);
    }
    #define greenio_prefetch(address) __builtin_prefetch(address)
    """
    void greenio_prefetch(const void *address)
    int greenio_epoll_wait(int epoll_fd, epoll_event *events, int room, int64_t timeout_ns)

cdef enum:
    ROOM = 256                         # events taken in one call
cdef uint64_t WAKE = <uint64_t>0xffffffff   # no descriptor has this number


cdef inline epoll_event event_of(Entry entry) noexcept:
    cdef epoll_event event
    event.events = EPOLLIN | EPOLLOUT | EPOLLPRI | EPOLLRDHUP | EPOLLET
    event.data.u64 = <uint64_t>entry.fd | (<uint64_t>entry.generation << 32)
    return event


cdef inline int flags_of(uint32_t events) noexcept nogil:
    cdef int flags = 0
    if events & EPOLLIN:
        flags |= READABLE
    if events & EPOLLOUT:
        flags |= WRITABLE
    if events & (EPOLLPRI | EPOLLRDHUP | EPOLLHUP | EPOLLERR):
        if events & EPOLLPRI:
            flags |= URGENT
        if events & EPOLLRDHUP:
            flags |= PEER_CLOSED
        if events & EPOLLHUP:
            flags |= HANG_UP
        if events & EPOLLERR:
            flags |= FAILED
    return flags


cdef class EpollPoller(Poller):
    """Asks epoll. One for each scheduler."""

    def __cinit__(self):
        self.epoll_fd = -1
        self.events = <epoll_event *>malloc(ROOM * sizeof(epoll_event))
        if self.events is NULL:
            raise MemoryError()
        self.open_descriptors()

    cdef int open_descriptors(self) except -1:
        cdef epoll_event event
        self.epoll_fd = epoll_create1(EPOLL_CLOEXEC)
        if self.epoll_fd < 0:
            PyErr_SetFromErrno(OSError)
        self.wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        event.events = EPOLLIN | EPOLLET
        event.data.u64 = WAKE
        if self.wake_fd < 0 or epoll_ctl(self.epoll_fd, EPOLL_CTL_ADD, self.wake_fd, &event) < 0:
            PyErr_SetFromErrno(OSError)
        self.poll_fd = self.epoll_fd
        return 0

    def __dealloc__(self):
        self.close_descriptors()
        free(self.events)

    cdef void close_descriptors(self) noexcept:
        if self.epoll_fd >= 0:
            close(self.epoll_fd)
        if self.wake_fd >= 0:
            close(self.wake_fd)
        self.epoll_fd = -1
        self.poll_fd = -1
        self.wake_fd = -1

    cpdef int add(self, Entry entry) except -1:
        cdef epoll_event event
        cdef int fd = entry.fd
        self.put(entry)
        event = event_of(entry)
        if epoll_ctl(self.epoll_fd, EPOLL_CTL_ADD, entry.fd, &event) < 0:
            self.take(entry)
            entry.fd = fd
            PyErr_SetFromErrno(OSError)
        return 0

    cpdef int remove(self, Entry entry) except -1:
        cdef epoll_event unused
        cdef int fd = entry.fd
        cdef bint here = fd >= 0 and fd < self.table_size and self.table[fd] is <PyObject *>entry
        self.take(entry)
        # ENOENT, EBADF: the descriptor was closed behind our back, which took it out.
        if here and epoll_ctl(self.epoll_fd, EPOLL_CTL_DEL, fd, &unused) < 0 and errno != ENOENT and errno != EBADF:
            PyErr_SetFromErrno(OSError)
        return 0

    cpdef bint holds(self, Entry entry) except -1:
        # Asked by a change that changes nothing but to tell once more what is ready.
        cdef epoll_event event
        if entry.fd < 0 or entry.fd >= self.table_size or self.table[entry.fd] is not <PyObject *>entry:
            return False
        event = event_of(entry)
        if epoll_ctl(self.epoll_fd, EPOLL_CTL_MOD, entry.fd, &event) == 0:
            return True
        if errno == ENOENT or errno == EBADF:
            return False
        PyErr_SetFromErrno(OSError)

    cpdef Py_ssize_t wait(self, int64_t timeout_ns) except -1:
        # Not on the C stack: a parked fiber hosts this call, and would keep another page for it.
        cdef epoll_event *events = self.events
        cdef int count
        cdef int index
        cdef uint32_t fd
        cdef Entry entry
        cdef uint64_t data
        failure = None
        if timeout_ns == 0:
            count = greenio_epoll_wait(self.epoll_fd, events, ROOM, 0)
        else:
            with nogil:
                count = greenio_epoll_wait(self.epoll_fd, events, ROOM, timeout_ns)
        if count < 0:
            if errno == EINTR:
                return 0
            PyErr_SetFromErrno(OSError)
        # Entries are cold where there are many: fetch them all before the first is told.
        for index in range(count):
            fd = <uint32_t>events[index].data.u64
            if <Py_ssize_t>fd < self.table_size and self.table[fd] is not NULL:
                greenio_prefetch(<char *>self.table[fd])
                greenio_prefetch(<char *>self.table[fd] + 64)
        index = 0
        while index < count:
            try:
                while index < count:
                    data = events[index].data.u64
                    index += 1
                    if data == WAKE:
                        continue
                    entry = self.find(<int>(data & 0x7fffffff), <uint32_t>(data >> 32))
                    if entry is not None:
                        entry.ready(flags_of(events[index - 1].events))
            except BaseException as error:
                # The kernel will not tell the others again.
                failure = failure or error
        if failure is not None:
            raise failure
        return count

    cpdef int wake(self) except -1:
        cdef uint64_t one = 1
        if self.wake_fd >= 0:
            write(self.wake_fd, &one, sizeof(one))
        return 0

    cpdef int close(self) except -1:
        self.forget_all()
        self.close_descriptors()
        return 0

    cpdef int after_fork(self) except -1:
        # Closing comes first: the epoll instance is the parent's too, and must not hear of the child.
        self.forget_all()
        self.close_descriptors()
        self.open_descriptors()
        return 0
